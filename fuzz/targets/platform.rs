//! Platforms: what is read is written the same, and suits itself best.
#![no_main]

use boxship_layers::Platform;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.lines();
    let Some(Ok(one)) = lines.next().map(str::parse::<Platform>) else { return };
    assert_eq!(one.to_string().parse::<Platform>().ok().as_ref(), Some(&one));
    assert_eq!(Some(one.to_string().as_str()), text.lines().next());
    assert_eq!(one.fits(&one.os, &one.architecture, one.variant.as_deref()), Some(2));
    let Some(Ok(two)) = lines.next().map(str::parse::<Platform>) else { return };
    let fit = one.fits(&two.os, &two.architecture, two.variant.as_deref());
    let same = (&one.os, &one.architecture) == (&two.os, &two.architecture);
    assert!(fit.is_none() || same, "another system or processor");
    assert!(fit.is_some() || !same || one.variant.is_some(), "who asks for no variant takes any");
});
