//! `dns://` targets: one question to one resolver.

use std::{net::SocketAddr, time::Instant};

use caelum_model::event::ErrorStage;
use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RecordType},
};

use super::{Failure, Host, Measurement, Task, ms, resolve};

/// Asks once and times the answer. A code that means "no" is an error with a time: the resolver was quick
/// or slow to say so.
pub(super) async fn ask(
    task: &Task<'_>,
    (resolver, port): (&Host, u16),
    name: &str,
    record_type: RecordType,
    measurement: &mut Measurement,
) -> Result<(), Failure> {
    let failed = |detail: String| Failure::new(ErrorStage::Dns, detail);
    // The resolver's own name is not what is measured.
    let found = resolve::resolve(resolver, measurement.family, task.names, task.timeout).await;
    let address = found.address.map_err(|detail| failed(format!("the resolver's own name: {detail}")))?;
    let server = SocketAddr::new(address, port);
    measurement.resolver = Some(server.to_string());
    measurement.remote_ip = Some(address.to_string());
    let full = Name::from_ascii(format!("{name}.")).map_err(|error| failed(error.to_string()))?;

    let started = Instant::now();
    let answer = resolve::exchange(server, &full, record_type, task.timeout).await.map_err(failed)?;
    measurement.timings.dns_ms = Some(ms(started.elapsed()));

    let is_root = name.is_empty();
    match answer.metadata.response_code {
        ResponseCode::NoError if is_root || !answer.answers.is_empty() => Ok(()),
        ResponseCode::NoError => Err(failed(format!("no {record_type} record"))),
        code if is_root && code != ResponseCode::ServFail => Ok(()),
        code => Err(failed(resolve::code_name(code))),
    }
}
