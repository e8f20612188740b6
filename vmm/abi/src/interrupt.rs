//! Interrupts: which vectors there are, and whom one is for.
//!
//! A vector that is requested for a vCPU is pending for it until it is injected, which is as soon as the
//! vCPU's interrupt flag is set, and ends a HLT whatever the flag says. Pending twice is pending once. Of
//! several, the highest comes first.

/// The one vector that an interrupt flag does not hold back: the non-maskable interrupt. One that comes
/// while another is being handled, with the flag clear, may have to wait for the vCPU's next exit after that.
pub const NMI: u8 = 2;

/// Lowest vector that is not an exception's.
pub const FIRST_EXTERNAL: u8 = 32;

/// Whether `vector` is one that may be injected as an ordinary interrupt.
pub const fn is_external(vector: u8) -> bool {
    vector >= FIRST_EXTERNAL
}

/// Targets of [`SEND_IPI`](crate::port::SEND_IPI) that are not the index of a vCPU.
pub mod target {
    /// The vCPUs that are named in the sender's page: bit i of
    /// [`ipi_mask`](crate::vcpu_page::VcpuPage::ipi_mask) stands for vCPU
    /// [`ipi_base`](crate::vcpu_page::VcpuPage::ipi_base) + i.
    pub const MASK: u32 = 0xff_fffe;
    /// All vCPUs but the sender.
    pub const OTHERS: u32 = 0xff_ffff;
}

/// The argument of [`SEND_IPI`](crate::port::SEND_IPI): the vector in bits 0-7, either [`NMI`] or one that
/// [`is_external`]; and in the others the target, an index or one of [`target`]'s.
pub const fn ipi(target: u32, vector: u8) -> u32 {
    target << 8 | vector as u32
}
