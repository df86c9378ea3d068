//! `cargo x bench`: a question of `folio bench`, with a plot beside its table.

use crate::step::{self, Failure, cargo, target_dir};

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let Some((question, options)) = arguments.split_first() else {
        return Err(Failure::Usage(
            "bench what? 'cargo x bench --help' lists the questions".to_owned(),
        ));
    };
    let mut bench = cargo("run --release -p folio -- bench");
    bench.arg(question);
    let names_its_files = ["all", "--help", "-h"].contains(&question.as_str())
        || options.iter().any(|option| option == "--save");
    if !names_its_files
        && !options.iter().any(|option| option == "--plot" || option.starts_with("--plot="))
    {
        let plot = target_dir().join(format!("bench-{question}.svg"));
        bench.arg("--plot").arg(plot);
    }
    step::run(&format!("bench {question}"), bench.args(options))
}
