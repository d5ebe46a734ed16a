//! Whether a launcher started this process as one of several.

/// What launchers put into the environment: how many processes there are. Open MPI; MPICH, Intel MPI, and
/// Slurm's PMI and PMI-2; MVAPICH2.
const SIZES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"];

/// Slurm's PMIx tells the rank; the step's size stands elsewhere, where others than PMIx have it too.
const PMIX: [&str; 2] = ["PMIX_RANK", "SLURM_STEP_NUM_TASKS"];

/// How many processes were launched together with this one, and which variable says so; `None` where it is
/// alone.
pub fn processes(get: impl Fn(&str) -> Option<String>) -> Option<(u64, &'static str)> {
    let number = |name: &'static str| get(name)?.trim().parse().ok().map(|count| (count, name));
    let [rank, tasks] = PMIX;
    let by_pmix = || get(rank).and_then(|_| number(tasks));
    SIZES.into_iter().find_map(number).or_else(by_pmix).filter(|(count, _)| *count > 1)
}

/// As [`processes`], by the environment of this process.
pub fn here() -> Option<(u64, &'static str)> {
    processes(|name| std::env::var(name).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Option<(u64, &'static str)> {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name);
        processes(|name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn each_launcher_tells_in_its_way() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("OMPI_COMM_WORLD_SIZE", "4")]), Some((4, "OMPI_COMM_WORLD_SIZE")));
        assert_eq!(of(&[("OMPI_COMM_WORLD_SIZE", "1")]), None);
        assert_eq!(of(&[("PMI_SIZE", "2"), ("PMI_RANK", "0")]), Some((2, "PMI_SIZE")));
        assert_eq!(
            of(&[("SLURM_STEP_NUM_TASKS", "8")]),
            None,
            "a script of one process has it too"
        );
        let pmix = [("PMIX_RANK", "0"), ("SLURM_STEP_NUM_TASKS", "8")];
        assert_eq!(of(&pmix), Some((8, "SLURM_STEP_NUM_TASKS")));
        assert_eq!(of(&[("PMI_SIZE", "many")]), None);
    }
}
