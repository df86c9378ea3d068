//! `cargo x bench`: runs a benchmark of `folio bench`, with a plot beside its table.

use crate::step::{self, Failure, cargo, target_dir};

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let Some((benchmark, options)) = arguments.split_first() else {
        return Err(Failure::Usage(
            "bench needs a benchmark: 'cargo x bench --help' lists them".to_owned(),
        ));
    };
    let mut bench = cargo("run --release -p folio -- bench");
    bench.arg(benchmark);
    let names_its_files = ["all", "--help", "-h"].contains(&benchmark.as_str())
        || options.iter().any(|option| option == "--save");
    if !names_its_files
        && !options.iter().any(|option| option == "--plot" || option.starts_with("--plot="))
    {
        let plot = target_dir().join(format!("bench-{benchmark}.svg"));
        bench.arg("--plot").arg(plot);
    }
    step::run(&format!("bench {benchmark}"), bench.args(options))
}
