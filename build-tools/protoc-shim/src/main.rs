//! A `protoc` made of Rust: just the flags that `prost-build` passes, so that a build needs no system package.

use std::path::PathBuf;

fn main() {
    if let Err(error) = run(std::env::args().skip(1)) {
        eprintln!("protoc-shim: {error}");
        std::process::exit(1);
    }
}

fn run(args: impl Iterator<Item = String>) -> Result<(), Box<dyn std::error::Error>> {
    let mut args = args.peekable();
    let (mut includes, mut files, mut out) = (Vec::<PathBuf>::new(), Vec::<PathBuf>::new(), None);
    let (mut imports, mut source_info) = (false, false);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--version" => {
                println!("libprotoc 30.0");
                return Ok(());
            }
            "-I" => includes.push(args.next().ok_or("-I needs a folder")?.into()),
            "-o" => out = Some(PathBuf::from(args.next().ok_or("-o needs a file")?)),
            "--include_imports" => imports = true,
            "--include_source_info" => source_info = true,
            other => match (other.strip_prefix("-I"), other.strip_prefix("--descriptor_set_out=")) {
                (Some(dir), _) => includes.push(dir.into()),
                (_, Some(file)) => out = Some(file.into()),
                _ if other.starts_with("--") => {}
                _ => files.push(other.into()),
            },
        }
    }
    let out = out.ok_or("no output file: pass -o FILE")?;
    let mut compiler = protox::Compiler::new(includes)?;
    compiler.include_imports(imports).include_source_info(source_info).open_files(files)?;
    std::fs::write(out, compiler.encode_file_descriptor_set())?;
    Ok(())
}
