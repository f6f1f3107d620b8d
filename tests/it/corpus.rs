//! Tries every input that is kept in `tests/corpus`: what fuzzing found, and
//! what reaches far into the code. See `fuzz/README.md`.

mod targets;

use std::{fs, path::Path};

/// What the kept inputs of a target may come to, so that tests stay fast.
const MOST_FILES: usize = 60;

#[test]
fn inputs_that_are_kept_still_hold() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    for (name, target) in targets::ALL {
        let mut files: Vec<_> = fs::read_dir(folder.join(name))
            .unwrap_or_else(|error| panic!("the inputs of {name}: {error}"))
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        assert!((1..=MOST_FILES).contains(&files.len()), "{name}");
        for file in files {
            // Shown only when the target panics.
            println!("{}", file.display());
            target(&fs::read(file).unwrap());
        }
    }
}
