//! What distributions cost and how wrong they are: after random trees of merges, on five distributions that are
//! hard on them.
//!
//! `--values N` (20,000) values of each, `--trees N` (20) trees of merges; error over all ranks, bytes of a
//! minute of 60 values, times of one encoding and of one merge of such minutes. The times are of one thread and
//! mean something only where nothing else runs.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

#[path = "../../../crates/engine/src/sketch/adversaries.rs"]
mod adversaries;

use std::{hint::black_box, time::Instant};

use adversaries::{ADVERSARIES, Chance, Draw};
use anyhow::{Context as _, Result, ensure};
use caelum_engine::sketch::Histogram;
use caelum_testkit::measure::option;

/// Values in one cell: a measurement a second for a minute.
const CELL: usize = 60;
/// Cells that are encoded and merged for a time.
const CELLS: usize = 2_000;

fn main() -> Result<()> {
    let count = usize::try_from(option("--values", 20_000)?)?.max(CELL);
    let trees = option("--trees", 20)?;
    println!("floor: error 0.6 %, 150 bytes a cell of {CELL} values; aim: 0.55 %, 100 bytes");
    println!("{count} values each, {trees} random trees of merges; cells: mean and largest of {CELLS}\n");
    println!("{:<52} {:>9} {:>12} {:>10} {:>9}", "distribution", "error", "bytes", "encode", "merge");
    println!("{}", row("as probes see it: around 20 ms, a third of an octave", likely, count, trees)?);
    for (name, draw) in ADVERSARIES {
        println!("{}", row(name, draw, count, trees)?);
    }
    Ok(())
}

fn likely(chance: &mut Chance) -> f64 {
    // The sum of twelve shares is nearly normal.
    let normal = (0..12).map(|_| chance.share()).sum::<f64>() - 6.0;
    20.0 * (normal / 3.0).exp2()
}

fn row(name: &str, draw: Draw, count: usize, trees: u64) -> Result<String> {
    let mut chance = Chance(43);
    let mut values: Vec<f64> = (0..count).map(|_| draw(&mut chance)).collect();
    let whole = of(&values)?;
    for seed in 0..trees {
        let merged = merged(&values, &mut Chance(seed))?;
        ensure!(merged.encode() == whole.encode(), "{name}: a tree of merges has other bytes, seed {seed}");
    }
    values.sort_by(f64::total_cmp);
    let mut worst = 0.0_f64;
    for (at, exact) in values.iter().enumerate() {
        let answered = whole.quantile((at as f64 + 0.5) / values.len() as f64).context("not empty")?;
        if *exact > 0.0 {
            worst = worst.max((answered - exact).abs() / exact);
        }
    }
    let cells = (0..CELLS)
        .map(|_| of(&(0..CELL).map(|_| draw(&mut chance)).collect::<Vec<f64>>()))
        .collect::<Result<Vec<Histogram>>>()?;
    let began = Instant::now();
    let sizes: Vec<usize> = cells.iter().map(|cell| black_box(cell.encode()).len()).collect();
    let encode_ns = began.elapsed().as_nanos() as f64 / CELLS as f64;
    let began = Instant::now();
    let mut all = Histogram::default();
    cells.iter().for_each(|cell| all.merge(black_box(cell)));
    let merge_ns = began.elapsed().as_nanos() as f64 / CELLS as f64;
    black_box(all);
    let mean = sizes.iter().sum::<usize>() as f64 / CELLS as f64;
    let largest = sizes.iter().max().copied().unwrap_or(0);
    Ok(format!(
        "{name:<52} {:>7.3} % {mean:>6.0} / {largest:>3} {encode_ns:>7.0} ns {merge_ns:>6.0} ns",
        worst * 100.0
    ))
}

fn of(values: &[f64]) -> Result<Histogram> {
    let mut histogram = Histogram::default();
    values.iter().try_for_each(|value| histogram.record(*value))?;
    Ok(histogram)
}

/// Merges cells in an order that chance chooses.
fn merged(values: &[f64], chance: &mut Chance) -> Result<Histogram> {
    let mut parts = values.chunks(CELL).map(of).collect::<Result<Vec<Histogram>>>()?;
    while parts.len() > 1 {
        let last = parts.swap_remove((chance.number() % parts.len() as u64) as usize);
        let at = (chance.number() % parts.len() as u64) as usize;
        parts[at].merge(&last);
    }
    parts.pop().context("there are values")
}
