//! Passes the version of the compiler to the command; `folio bench` reports it.

use std::env;
use std::process::Command;

fn main() {
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(compiler).arg("--version").output();
    let version = output.map_or("unknown".into(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    });
    println!("cargo:rustc-env=FOLIO_COMPILER={version}");
    println!("cargo:rerun-if-changed=build.rs");
}
