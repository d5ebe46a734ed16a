//! What a drive says of itself, and of Copy.
//!
//! Source: NVM Express Base Specification, Identify Controller data structure, and NVM Command Set
//! Specification, Identify Namespace data structure; offsets are bytes of these.

/// Bytes of an Identify data structure.
pub(super) const IDENTIFY_BYTES: usize = 4096;
/// Bytes of the data of Host Behavior Support (feature 16h).
pub(super) const BEHAVIOR_BYTES: usize = 512;

/// What a namespace says of Copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limits {
    /// Bytes of a block.
    pub(super) block_bytes: u64,
    /// Blocks of the namespace.
    pub(super) blocks: u64,
    /// Blocks of a source range at most (MSSRL).
    pub(super) range_blocks: u16,
    /// Blocks of a command at most (MCL).
    pub(super) command_blocks: u32,
    /// Source ranges of a command at most (MSRC + 1).
    pub(super) ranges: u32,
}

/// Why a namespace is not to be copied by its drive.
type Why = String;

fn u16_at(data: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([data[at], data[at + 1]])
}

fn u32_at(data: &[u8], at: usize) -> u32 {
    u32::from(u16_at(data, at)) | u32::from(u16_at(data, at + 2)) << 16
}

fn u64_at(data: &[u8], at: usize) -> u64 {
    u64::from(u32_at(data, at)) | u64::from(u32_at(data, at + 4)) << 32
}

/// Whether the controller has Copy: bit 8 of ONCS.
pub(super) fn copies(controller: &[u8; IDENTIFY_BYTES]) -> bool {
    u16_at(controller, 520) & 1 << 8 != 0
}

/// Whether its descriptors may name other namespaces: bit 2 of the formats that the controller knows
/// (OCFS), and of those that the host has enabled (CDFE, in its Host Behavior Support).
pub(super) fn copies_across(
    controller: &[u8; IDENTIFY_BYTES],
    behavior: &[u8; BEHAVIOR_BYTES],
) -> Result<(), Why> {
    const FORMAT_2: u16 = 1 << 2;
    if u16_at(controller, 534) & FORMAT_2 == 0 {
        return Err("the drive copies within a namespace only".into());
    }
    if u16_at(behavior, 4) & FORMAT_2 == 0 {
        let why = "the drive could copy between namespaces, but this kernel has not enabled it";
        return Err(why.into());
    }
    Ok(())
}

impl Limits {
    /// Of a namespace.
    ///
    /// # Errors
    /// Why blocks of it are not to be copied without a look at them.
    pub(super) fn of(namespace: &[u8; IDENTIFY_BYTES]) -> Result<Self, Why> {
        // FLBAS: bits 0 to 3 and, above them, 5 and 6 are the number of the format.
        let (flbas, formats) = (namespace[26], u16::from(namespace[25]) + 1);
        let high = if formats > 16 { flbas >> 5 & 3 } else { 0 };
        let format = u32_at(namespace, 128 + 4 * usize::from(flbas & 15 | high << 4));
        let (metadata, shift) = (format & 0xffff, format >> 16 & 0xff);
        if metadata != 0 {
            return Err(format!("its blocks have {metadata} bytes of metadata"));
        }
        if !(9..=16).contains(&shift) {
            return Err(format!("it says that a block is 2^{shift} bytes"));
        }
        if namespace[99] & 1 != 0 {
            return Err("the namespace is write protected".into());
        }
        let limits = Self {
            block_bytes: 1 << shift,
            blocks: u64_at(namespace, 0),
            range_blocks: u16_at(namespace, 74),
            command_blocks: u32_at(namespace, 76),
            ranges: u32::from(namespace[80]) + 1,
        };
        if limits.range_blocks == 0 || limits.command_blocks == 0 {
            return Err("the namespace says that nothing can be copied (MSSRL or MCL is 0)".into());
        }
        Ok(limits)
    }
}

impl std::fmt::Display for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { block_bytes, range_blocks, command_blocks, ranges, .. } = self;
        write!(
            f,
            "Copy of {ranges} ranges of {range_blocks} blocks of {block_bytes} bytes, \
             {command_blocks} blocks a command"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace() -> [u8; IDENTIFY_BYTES] {
        let mut data = [0; IDENTIFY_BYTES];
        data[..8].copy_from_slice(&0x1_0000_0000_u64.to_le_bytes());
        data[25] = 1;
        data[26] = 1;
        data[132 + 2] = 12; // format 1: blocks of 4,096 bytes
        data[74..76].copy_from_slice(&2048_u16.to_le_bytes());
        data[76..80].copy_from_slice(&65535_u32.to_le_bytes());
        data[80] = 127;
        data
    }

    #[test]
    fn limits_are_where_the_specification_has_them() {
        let limits = Limits::of(&namespace()).unwrap();
        let expected = Limits {
            block_bytes: 4096,
            blocks: 1 << 32,
            range_blocks: 2048,
            command_blocks: 65535,
            ranges: 128,
        };
        assert_eq!(limits, expected);
    }

    #[test]
    fn a_format_beyond_sixteen_has_its_bits_apart() {
        let mut data = namespace();
        data[25] = 63;
        data[26] = 0x22; // 2 + 16
        data[128 + 4 * 18 + 2] = 9;
        assert_eq!(Limits::of(&data).unwrap().block_bytes, 512);
    }

    #[test]
    fn what_must_not_be_copied_blindly_is_refused_with_the_reason() {
        let with = |at: usize, value: u8| {
            let mut data = namespace();
            data[at] = value;
            Limits::of(&data).unwrap_err()
        };
        assert!(with(132, 8).contains("8 bytes of metadata"));
        assert!(with(134, 70).contains("2^70"));
        assert!(with(99, 1).contains("write protected"));
        let mut nothing = namespace();
        nothing[74..80].fill(0);
        assert!(Limits::of(&nothing).unwrap_err().contains("MSSRL"));
    }

    #[test]
    fn copies_between_namespaces_need_drive_and_kernel() {
        let (mut controller, mut behavior) = ([0; IDENTIFY_BYTES], [0; BEHAVIOR_BYTES]);
        assert!(!copies(&controller));
        controller[521] = 1;
        assert!(copies(&controller));
        assert!(copies_across(&controller, &behavior).unwrap_err().contains("within a namespace"));
        controller[534] = 0b111;
        assert!(copies_across(&controller, &behavior).unwrap_err().contains("not enabled"));
        behavior[4] = 0b100;
        copies_across(&controller, &behavior).unwrap();
    }
}
