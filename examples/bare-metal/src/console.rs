//! The lines that the kernel prints.

/// Prints one line.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => {{
        use core::fmt::Write as _;
        // Writing to the serial port never fails.
        let _ = writeln!($crate::arch::machine::Serial, $($words)*);
    }};
}
