//! `hugectl export`: the machine's contiguity in OpenMetrics, for Prometheus.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use bookend_defrag::system::status::{Status, status};
use bookend_defrag::system::survey::{Class, Survey, survey};
use clap::Args;

use super::persist::replace;
use super::{Context, Failure};
use crate::cli::{exit, output};

/// Writes metrics of the machine's contiguity in OpenMetrics text
///
/// To standard output, to a file for node_exporter's textfile collector, or over HTTP on a loopback
/// address. Blocks by class are in it where hugectl runs as root.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Write this file, whole or not at all
    #[arg(long, value_name = "FILE", conflicts_with = "listen")]
    textfile: Option<PathBuf>,
    /// Answer HTTP requests on this loopback address until stopped: 127.0.0.1:9477
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = loopback)]
    listen: Option<SocketAddr>,
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| format!("\"{text}\" is no address and port, such as 127.0.0.1:9477"))?;
    let is_loopback = match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback(),
    };
    let why = "is no loopback address; metrics are not for everybody on the network: put a proxy \
               in front, or use --textfile";
    if is_loopback { Ok(address) } else { Err(format!("{} {why}", address.ip())) }
}

/// Writes or serves the metrics.
///
/// # Errors
/// [`Failure`].
pub fn run(options: &Options, context: &Context) -> Result<u8, Failure> {
    if let Some(address) = options.listen {
        return serve(address, context);
    }
    let metrics = metrics(context);
    match &options.textfile {
        Some(path) => replace(path, metrics.as_bytes())?,
        None => output::line(metrics.trim_end()).map_err(Failure::Output)?,
    }
    Ok(exit::SUCCESS)
}

fn metrics(context: &Context) -> String {
    let status = status(&context.files, context.base);
    let survey = survey(&context.files, context.base).ok();
    text(&status, survey.as_ref())
}

/// One metric family after the other, and the line that ends them.
fn text(status: &Status, survey: Option<&Survey>) -> String {
    let mut out = String::new();
    pools(&mut out, status);
    free_blocks(&mut out, status);
    memory(&mut out, status);
    if let Some(compaction) = &status.compaction {
        family(&mut out, "compaction_success_ratio", "Compactions that got their block");
        sample_ratio(&mut out, "compaction_success_ratio", compaction.success);
        family(&mut out, "migration_success_ratio", "Pages that could be migrated");
        sample_ratio(&mut out, "migration_success_ratio", compaction.migration);
    }
    if let Some(survey) = survey {
        blocks(&mut out, survey);
    }
    out.push_str("# EOF\n");
    out
}

fn family(out: &mut String, name: &str, help: &str) {
    let _ = writeln!(out, "# TYPE hugectl_{name} gauge\n# HELP hugectl_{name} {help}.");
}

fn sample(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = writeln!(out, "hugectl_{name}{{{labels}}} {value}");
}

fn sample_ratio(out: &mut String, name: &str, value: Option<f64>) {
    if let Some(value) = value {
        let _ = writeln!(out, "hugectl_{name} {value}");
    }
}

fn pools(out: &mut String, status: &Status) {
    for (name, help) in [
        ("pool_pages", "Pages in a huge page pool"),
        ("pool_free_pages", "Pages in a huge page pool that nobody uses"),
    ] {
        family(out, name, help);
        for node in &status.nodes {
            for pool in &node.pools {
                let labels = format!("node=\"{}\",page_bytes=\"{}\"", node.node, pool.page_bytes);
                let value = if name == "pool_pages" { pool.total } else { pool.free };
                sample(out, name, &labels, value);
            }
        }
    }
}

fn free_blocks(out: &mut String, status: &Status) {
    for (name, help) in [
        ("free_blocks", "Free blocks of just this order"),
        ("unusable_free_ratio", "Share of free memory that a block of this order cannot come from"),
    ] {
        family(out, name, help);
        for node in &status.nodes {
            for zone in &node.zones {
                for order in &zone.orders {
                    let labels = format!(
                        "node=\"{}\",zone=\"{}\",order=\"{}\"",
                        node.node, zone.zone, order.order
                    );
                    match name {
                        "free_blocks" => sample(out, name, &labels, order.free),
                        _ => sample(out, name, &labels, order.unusable),
                    }
                }
            }
        }
    }
}

fn memory(out: &mut String, status: &Status) {
    family(out, "memory_bytes", "Memory of a node by what it is");
    for node in &status.nodes {
        for (kind, bytes) in [
            ("total", node.total_bytes),
            ("free", node.free_bytes),
            ("files", node.file_bytes),
            ("slab_reclaimable", node.slab_reclaimable_bytes),
            ("slab_unreclaimable", node.slab_unreclaimable_bytes),
        ] {
            if let Some(bytes) = bytes {
                let labels = format!("node=\"{}\",kind=\"{kind}\"", node.node);
                sample(out, "memory_bytes", &labels, bytes);
            }
        }
    }
}

fn blocks(out: &mut String, survey: &Survey) {
    family(out, "blocks", "Blocks of 2 MiB by what could become of them");
    let nodes: std::collections::BTreeSet<_> = survey.zones.iter().map(|zone| zone.node).collect();
    for node in nodes {
        for (class, count) in Class::ALL.into_iter().zip(survey.classes(Some(node))) {
            if class != Class::Absent {
                let class = format!("{class:?}").to_lowercase();
                sample(out, "blocks", &format!("node=\"{node}\",class=\"{class}\""), count);
            }
        }
    }
}

/// How long a client may take to say what it wants, and how often signals are looked at.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(100);

/// One request after the other: a scrape a minute needs no more.
fn serve(address: SocketAddr, context: &Context) -> Result<u8, Failure> {
    let failed =
        |source| Failure::UserFile { path: address.to_string().into(), what: "listen", source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    output::line(format_args!("http://{bound}/metrics")).map_err(Failure::Output)?;
    while context.interrupts.check().is_ok() {
        match listener.accept() {
            Ok((stream, _)) => drop(answer(stream, context)), // its own loss
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(LOOK);
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(exit::SUCCESS)
}

fn answer(stream: TcpStream, context: &Context) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(std::io::Read::take(&stream, 8 << 10));
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear(); // headers, of which none matters
    }
    let (status, kind, body) = if request.starts_with("GET /metrics ") {
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        ("200 OK", kind, metrics(context))
    } else {
        ("404 Not Found", "text/plain", "see /metrics\n".to_owned())
    };
    let len = body.len();
    let mut stream = &stream;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_are_served() {
        assert!(loopback("127.0.0.1:9477").is_ok() && loopback("[::1]:0").is_ok());
        assert!(loopback("0.0.0.0:9477").unwrap_err().contains("loopback"));
        assert!(loopback("9477").unwrap_err().contains("127.0.0.1:9477"));
    }
}
