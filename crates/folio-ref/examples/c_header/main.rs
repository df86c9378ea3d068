//! Prints `page_ref.h`: the word of every scheme with a bit as C, from the layouts of the schemes.
//!
//! `cargo x c-header` writes the output to `include/page_ref.h`.

#![forbid(unsafe_code)]

mod generate;

fn main() {
    print!("{}", generate::header());
}
