//! The rollups' table in parts, by length of window and time, so that forgetting old rows is dropping a table.
//!
//! One-minute windows have a part a day, a quarter of an hour's a part for 30 days, longer ones a part for 360
//! days. A part is made when its first row comes, and the next one with it; making one is guarded by a lock of
//! the database, so that several aggregators may do it at once.

use std::collections::BTreeSet;

use caelum_model::{
    UnixMs,
    rollup::{MINUTE_MS, Rollup},
};

use super::{Postgres, session::Session};
use crate::{FaultKind, StoreError};

/// Locks of the database that belong to us: `caelu` in ASCII, then a number.
pub(super) const LOCK_MIGRATE: i64 = 0x6361_656c_7501;
const LOCK_PARTS: i64 = 0x6361_656c_7502;
const DAY_MS: i64 = 86_400_000;
/// Most parts that one write may need: rows come from a bounded past.
const PARTS_A_WRITE_MAX: usize = 512;
/// Parts remembered as being there.
const KNOWN_MAX: usize = 4096;

/// Parts that are known to be there.
pub(super) type Parts = BTreeSet<Part>;

/// One part of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part {
    width_ms: i64,
    from_ms: UnixMs,
}

impl Part {
    fn of(width_ms: i64, window_start_ms: UnixMs) -> Self {
        let span = span_ms(width_ms);
        Self { width_ms, from_ms: window_start_ms.div_euclid(span).saturating_mul(span) }
    }

    fn next(self) -> Self {
        Self { width_ms: self.width_ms, from_ms: self.from_ms.saturating_add(span_ms(self.width_ms)) }
    }

    fn name(self) -> String {
        let (year, month, day) = civil(self.from_ms.div_euclid(DAY_MS));
        format!("rollups_{}s_{year:04}{month:02}{day:02}", self.width_ms / 1000)
    }

    /// Where it ends, and the next one begins.
    fn to_ms(self) -> UnixMs {
        self.next().from_ms
    }
}

fn span_ms(width_ms: i64) -> i64 {
    if width_ms <= MINUTE_MS {
        DAY_MS
    } else if width_ms <= 60 * MINUTE_MS {
        30 * DAY_MS
    } else {
        360 * DAY_MS
    }
}

/// The date of a day since 1970 in the Gregorian calendar: eras of 400 years, years from March.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

impl Postgres {
    /// Makes the parts that rows belong in, where they are missing.
    pub(super) async fn ensure_parts(
        &self,
        operation: &'static str,
        rollups: &[Rollup],
    ) -> Result<(), StoreError> {
        let wanted: Parts =
            rollups.iter().map(|row| Part::of(row.key.width_ms, row.key.window_start_ms)).collect();
        let missing: Vec<Part> = {
            let known = self.parts.lock().expect("no code panics while it holds this lock");
            wanted.difference(&known).copied().collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        if missing.len() > PARTS_A_WRITE_MAX {
            return Err(StoreError::Backend {
                operation,
                kind: FaultKind::Lasting,
                source: "the rows are of too many different times".into(),
            });
        }
        // Each is going to be followed by the next: made now, nobody waits for it then.
        let ahead: Vec<Part> = missing.iter().map(|part| part.next()).collect();
        let session = self.session(operation).await?;
        session.begin().await?;
        session.execute("select pg_advisory_xact_lock($1)", &[&LOCK_PARTS]).await?;
        for part in missing.iter().copied().chain(ahead) {
            make(&session, part).await?;
        }
        session.commit().await?;
        let mut known = self.parts.lock().expect("no code panics while it holds this lock");
        if known.len() > KNOWN_MAX {
            known.clear();
        }
        known.extend(missing);
        Ok(())
    }

    /// Forgets what is known of the parts, because it turned out untrue.
    pub(super) fn forget_parts(&self) {
        self.parts.lock().expect("no code panics while it holds this lock").clear();
    }

    /// Drops every part that ends before a time, and rows before it of parts that span more than a day; answers
    /// how many rows went.
    pub(super) async fn drop_parts(
        &self,
        operation: &'static str,
        width_ms: i64,
        before_ms: UnixMs,
        limit: usize,
    ) -> Result<usize, StoreError> {
        let session = self.long_session(operation).await?;
        session.execute("select pg_advisory_xact_lock($1)", &[&LOCK_PARTS]).await?;
        let over: Vec<String> = listed(&session)
            .await?
            .into_iter()
            .filter(|part| part.width_ms == width_ms && part.to_ms() <= before_ms)
            .map(Part::name)
            .collect();
        let mut gone: i64 = 0;
        for name in &over {
            let counted = session.row(&format!("select count(*) from {name}"), &[]).await?;
            gone += counted.map_or(Ok(0), |row| session.get(&row, 0))?;
        }
        if !over.is_empty() {
            // Last, because readers wait from here to the commit.
            session.batch(&format!("drop table {}", over.join(", "))).await?;
        }
        session.commit().await?;
        session.done();
        self.forget_parts();
        if span_ms(width_ms) > DAY_MS {
            let session = self.session(operation).await?;
            let deleted = session
                .execute(
                    "delete from rollups where (width_ms, window_start_ms, client_id, target, family) in
                        (select width_ms, window_start_ms, client_id, target, family from rollups
                         where width_ms = $1 and window_start_ms < $2 limit $3)",
                    &[&width_ms, &before_ms, &super::session::limit(limit)],
                )
                .await?;
            gone = gone.saturating_add(deleted.cast_signed());
        }
        Ok(usize::try_from(gone).unwrap_or(0))
    }
}

async fn make(session: &Session, part: Part) -> Result<(), StoreError> {
    let name = part.name();
    // Asked of the catalogue itself, which shows what others have made since this transaction began.
    let there = session
        .row(
            "select exists (select 1 from pg_inherits join pg_class child on child.oid = inhrelid
                where inhparent = 'rollups'::regclass and child.relname = $1::text)",
            &[&name],
        )
        .await?;
    if there.map(|row| session.get::<bool>(&row, 0)).transpose()? == Some(true) {
        return Ok(());
    }
    // Made apart and attached: that locks out no reader and no writer of the other parts. Rows are written
    // again and again while their window fills, so the room of old ones is wanted back early.
    session
        .batch(&format!(
            "create table {name} (like rollups including defaults including constraints including storage)
                with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.5);
             alter table rollups attach partition {name}
                for values from ({width}, {from}) to ({width}, {to})",
            width = part.width_ms,
            from = part.from_ms,
            to = part.to_ms(),
        ))
        .await
}

/// The parts that the table has.
pub(super) async fn listed(session: &Session) -> Result<Vec<Part>, StoreError> {
    let rows = session
        .rows(
            "select pg_get_expr(child.relpartbound, child.oid) from pg_inherits
             join pg_class child on child.oid = inhrelid where inhparent = 'rollups'::regclass
             order by child.relname",
            &[],
        )
        .await?;
    let mut parts = Vec::with_capacity(rows.len());
    for row in &rows {
        // Bounds that are not ours are an operator's own part, which is left alone.
        parts.extend(bounds(&session.get::<String>(row, 0)?));
    }
    Ok(parts)
}

/// Reads `FOR VALUES FROM ('60000', '86400000') TO ('60000', '172800000')`.
fn bounds(text: &str) -> Option<Part> {
    let numbers: Vec<i64> = text
        .split(|c: char| !c.is_ascii_digit() && c != '-')
        .filter(|word| !word.is_empty())
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    match numbers[..] {
        [width_ms, from_ms, same_width_ms, to_ms] if width_ms == same_width_ms => {
            Some(Part { width_ms, from_ms }).filter(|part| part.to_ms() == to_ms)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_named_by_its_length_and_first_day() {
        let name = |width, start| Part::of(width, start).name();
        assert_eq!(name(MINUTE_MS, 0), "rollups_60s_19700101");
        assert_eq!(name(MINUTE_MS, 951_782_400_000 + 5), "rollups_60s_20000229");
        assert_eq!(name(MINUTE_MS, 1_795_305_599_999), "rollups_60s_20261121");
        assert_eq!(name(900_000, 30 * DAY_MS), "rollups_900s_19700131");
        assert_eq!(name(86_400_000, -1), "rollups_86400s_19690106");
    }

    #[test]
    fn bounds_are_read_as_the_server_writes_them() {
        let part = Part { width_ms: 60_000, from_ms: 86_400_000 };
        assert_eq!(bounds("FOR VALUES FROM ('60000', '86400000') TO ('60000', '172800000')"), Some(part));
        assert_eq!(bounds("FOR VALUES FROM ('60000', '86400000') TO ('60000', '172800001')"), None);
        assert_eq!(bounds("DEFAULT"), None);
    }
}
