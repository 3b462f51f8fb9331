//! Documents of an image, which are a stranger's: manifest, index, configuration.
#![no_main]

use boxship_layers::fuzzing::{index, manifest};
use boxship_runtime::fuzzing::image_config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok((config, layers, _size)) = manifest(data) {
        for digest in layers.iter().chain([&config]) {
            assert!(digest.hex().bytes().all(|b| b.is_ascii_hexdigit()), "a name of a file");
        }
    }
    let _ = index(data);
    let Some(Ok(config)) = image_config(data, vec!["/bin/true".into()]) else { return };
    assert!(config.env.keys().all(|k| !k.is_empty() && !k.contains('=')));
    assert!((1..=31).contains(&config.stop_signal) || (34..=64).contains(&config.stop_signal));
    // A command, an environment, a directory, a user and a signal is all that an image says.
    let plain = boxship_runtime::Config {
        id: config.id.clone(),
        command: config.command.clone(),
        env: config.env.clone(),
        workdir: config.workdir.clone(),
        user: config.user.clone(),
        stop_signal: config.stop_signal,
        ..boxship_runtime::Config::default()
    };
    assert_eq!(config, plain);
    assert_eq!(config.command.last().map(String::as_str), Some("/bin/true"));
});
