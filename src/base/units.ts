// Units. A sector is 512 bytes, whatever a device reports; a bitmap block is 4 KiB; an activity-log extent is 4 MiB.

export const SECTOR_BYTES = 512
export const BLOCK_BYTES = 4096
export const SECTORS_PER_BLOCK = BLOCK_BYTES / SECTOR_BYTES
export const KIB = 1024
export const MIB = 1024 * KIB
export const GIB = 1024 * MIB

export const divCeil = (value: number, by: number): number => Math.ceil(value / by)
export const alignDown = (value: number, to: number): number => value - (value % to)
