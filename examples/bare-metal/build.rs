//! Links the kernel in the layout of its processor, and links again when the layout changes.

fn main() {
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it");
    let folder = format!("{}/src/arch/{arch}", env!("CARGO_MANIFEST_DIR"));
    println!("cargo:rustc-link-arg-bins=-T{folder}/kernel.ld");
    println!("cargo:rerun-if-changed={folder}/kernel.ld");
    println!("cargo:rerun-if-changed={folder}/boot.s");
}
