//! `cargo x figures`: the figures in docs/schemes.md and results/machine-code.md against the committed
//! results.

use crate::step::{self, Failure, cargo};

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let mut test = cargo("test --quiet -p folio --test figures");
    match arguments {
        [] => {}
        [option] if option == "--save" => _ = test.env("FOLIO_SAVE_FIGURES", "1"),
        _ => return Err(Failure::Usage("figures takes nothing, or --save".to_owned())),
    }
    step::run("the figures in docs/schemes.md and results/machine-code.md", &mut test)
}
