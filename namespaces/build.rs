//! Compiles the helper with the same rustc, for the same target: one static ELF without libc.

#![allow(clippy::expect_used, clippy::panic, reason = "a build script has no better way to stop a build")]

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=helper");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("helper");
    let target = env::var("TARGET").expect("cargo sets TARGET");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        panic!("boxship needs Linux: namespaces and cgroups exist nowhere else (target {target})");
    }
    let mut rustc = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"));
    rustc.args([
        "--edition",
        "2024",
        "--crate-type",
        "bin",
        "--crate-name",
        "boxship_helper",
        "--target",
        &target,
    ]);
    for option in [
        "opt-level=s",
        "panic=abort",
        "strip=symbols",
        "relocation-model=static",
        "link-arg=-nostdlib",
        "link-arg=-nostartfiles",
        "link-arg=-static",
        "link-arg=-Wl,--gc-sections,--build-id=none,-z,norelro,-z,noseparate-code",
    ] {
        rustc.args(["-C", option]);
    }
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut argument = std::ffi::OsString::from("linker=");
        argument.push(linker);
        rustc.arg("-C").arg(argument);
    }
    // Relative to the package, so that the result does not depend on where it is built.
    let status = rustc.arg("-o").arg(&out).arg("helper/main.rs").status().expect("cannot run rustc");
    assert!(status.success(), "the helper does not compile for {target}");
}
