//! `cargo x bench`: one question after the other, each with a plot beside its table.

use crate::step::{self, Failure, cargo, target_dir};

/// The questions that `folio bench` answers.
const QUESTIONS: [&str; 4] = ["alloc", "free", "read", "word"];

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let known = QUESTIONS.join(", ");
    let Some((question, options)) = arguments.split_first() else {
        return Err(Failure::Usage(format!("bench what? There are: {known}")));
    };
    if !QUESTIONS.contains(&question.as_str()) {
        return Err(Failure::Usage(format!("there is no bench '{question}'. There are: {known}")));
    }
    let mut bench = cargo("run --release -p folio -- bench");
    bench.arg(question);
    if !options.iter().any(|option| option == "--plot" || option.starts_with("--plot=")) {
        let plot = target_dir().join(format!("bench-{question}.svg"));
        bench.arg("--plot").arg(plot);
    }
    step::run(&format!("bench {question}"), bench.args(options))
}
