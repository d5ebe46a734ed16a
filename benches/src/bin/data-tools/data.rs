//! Data from a fixed seed.

use std::fs::File;
use std::io::{BufWriter, Result, Write};
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Makes a file once.
fn once(path: PathBuf, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<PathBuf> {
    if !path.exists() {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&path)?);
        write(&mut file)?;
        file.flush()?;
    }
    Ok(path)
}

/// Lines of words and numbers, about `bytes` long together.
pub fn lines(scratch: &Path, bytes: u64) -> Result<PathBuf> {
    once(scratch.join("lines"), |file| {
        let (mut rng, mut written) = (SmallRng::seed_from_u64(1), 0);
        while written < bytes {
            let line =
                format!("{:016x} {} {}\n", rng.random::<u64>(), rng.random::<u32>(), written);
            file.write_all(line.as_bytes())?;
            written += line.len() as u64;
        }
        Ok(())
    })
}

/// A C program of many functions.
pub fn source(scratch: &Path, functions: u32) -> Result<PathBuf> {
    once(scratch.join("source.c"), |file| {
        let mut rng = SmallRng::seed_from_u64(2);
        for function in 0..functions {
            writeln!(file, "long f{function}(long a, long b) {{\n  long x[8] = {{a, b}};")?;
            for _ in 0..20 {
                let [i, j, k] = [(); 3].map(|()| rng.random_range(0..8));
                let n = rng.random_range(1..1000);
                writeln!(file, "  x[{i}] = x[{j}] * {n} + (x[{k}] >> 3); if (x[{i}] > {n}) b++;")?;
            }
            writeln!(file, "  return x[a & 7] + b;\n}}")?;
        }
        writeln!(file, "int main(void) {{ return (int)f0(1, 2); }}")
    })
}

/// Statements for sqlite3: a table in memory, filled, indexed and asked.
pub fn statements(scratch: &Path, rows: u32) -> Result<PathBuf> {
    once(scratch.join("statements.sql"), |file| {
        writeln!(
            file,
            "create table t(id integer primary key, k integer, v real, s text);\n\
             with recursive n(i) as (select 1 union all select i + 1 from n where i < {rows})\n\
             insert into t select i, (i * 2654435761) % 100003, (i * 40503 % 65537) / 7.0,\n\
             'name-' || (i * 48271 % 50021) from n;\n\
             create index by_k on t(k); create index by_s on t(s, v);\n\
             select k % 10, count(*), round(sum(v), 3) from t group by 1 order by 1;\n\
             select s, count(*), max(v) from t group by s order by 2 desc, 1 limit 20;\n\
             select count(*) from t a join t b on a.k = b.id;\n\
             delete from t where id % 3 = 0; vacuum;\n\
             select count(*), round(avg(v), 6) from t;"
        )
    })
}
