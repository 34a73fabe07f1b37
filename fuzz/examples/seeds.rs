//! Writes the seeds of each target to the corpus that cargo-fuzz begins with: `seeds DIRECTORY`.

fn main() -> std::io::Result<()> {
    let corpus = std::env::args_os().nth(1).unwrap_or_else(|| "corpus".into());
    for target in &paddock_fuzz::TARGETS {
        let directory = std::path::Path::new(&corpus).join(target.name);
        std::fs::create_dir_all(&directory)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(directory.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
