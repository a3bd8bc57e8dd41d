// What can be wrong with metadata that we read, or with a device that shall hold it. `details.drbdCode` is the number
// that DRBD's kernel module returns to its tools for the same finding (metadata specification section 9, "attach").

import { AppError } from '../base/errors.ts'

export const DRBD_ERR_DEVICE_TOO_SMALL = 111
export const DRBD_ERR_META_DEVICE_TOO_SMALL = 112
export const DRBD_ERR_META_INVALID = 119
export const DRBD_ERR_META_UNCLEAN = 165
export const DRBD_ERR_IMPLICIT_SHRINK = 170

/** Any finding about metadata; `details.drbdCode` is what a DRBD tool expects to hear. */
export abstract class MetadataError extends AppError {
  abstract readonly details: { readonly drbdCode: number }
}

/** The metadata, or the least that must stand beside it, does not fit on the device. */
export class MetadataDeviceTooSmallError extends MetadataError {
  override readonly name = 'MetadataDeviceTooSmallError'
  readonly code = 'E_META_DEVICE_TOO_SMALL'
  readonly hint = 'Use a larger device: 1 MiB is the least for metadata, an indexed slot takes 128 MiB.'
  readonly details: { readonly drbdCode: number; readonly deviceBytes: number; readonly deviceBytesMin: number }

  constructor(details: { readonly deviceBytes: number; readonly deviceBytesMin: number }) {
    super(`the device for metadata has ${details.deviceBytes} bytes, at least ${details.deviceBytesMin} are needed`)
    this.details = { drbdCode: DRBD_ERR_META_DEVICE_TOO_SMALL, ...details }
  }
}

/** Stripes, stripe size or slot number outside what the format allows. */
export class MetadataGeometryError extends MetadataError {
  override readonly name = 'MetadataGeometryError'
  readonly code = 'E_META_GEOMETRY'
  readonly hint = 'The activity log has al-stripes x al-stripe-size blocks of 4 KiB: 8 to 4194304 of them.'
  readonly details: { readonly drbdCode: number; readonly problem: string }

  constructor(problem: string) {
    super(problem)
    this.details = { drbdCode: DRBD_ERR_META_INVALID, problem }
  }
}

/** No v08 superblock at this place. */
export class MetadataMagicError extends MetadataError {
  override readonly name = 'MetadataMagicError'
  readonly code = 'E_META_MAGIC'
  readonly hint: string
  readonly details: { readonly drbdCode: number; readonly magic: number; readonly found: 'v07' | 'v09' | 'nothing' }

  constructor(details: { readonly magic: number; readonly found: 'v07' | 'v09' | 'nothing' }) {
    super(
      details.found === 'nothing'
        ? `no metadata found: magic is 0x${hex32(details.magic)}`
        : `metadata is of format ${details.found}, not v08 (magic 0x${hex32(details.magic)})`,
    )
    this.hint =
      details.found === 'nothing'
        ? 'If this disk is new, run create-md. If it was in use, check that it is the right device and its size is unchanged.'
        : 'Convert the metadata with drbdmeta, or create it anew with create-md.'
    this.details = { drbdCode: DRBD_ERR_META_INVALID, ...details }
  }
}

/** A v08 superblock whose fields contradict each other, the device, or the format. */
export class MetadataInvalidError extends MetadataError {
  override readonly name = 'MetadataInvalidError'
  readonly code = 'E_META_INVALID'
  readonly hint = 'The metadata is damaged, or the device changed its size. Check the device before create-md.'
  readonly details: { readonly drbdCode: number; readonly field: string; readonly problem: string }

  constructor(details: { readonly field: string; readonly problem: string }) {
    super(`metadata field ${details.field}: ${details.problem}`)
    this.details = { drbdCode: DRBD_ERR_META_INVALID, ...details }
  }
}

/** The activity log has to be applied before anything may be concluded from the bitmap. */
export class MetadataUncleanError extends MetadataError {
  override readonly name = 'MetadataUncleanError'
  readonly code = 'E_META_UNCLEAN'
  readonly hint = 'Run apply-al first.'
  readonly details: { readonly drbdCode: number; readonly magic: number; readonly flags: number }

  constructor(details: { readonly magic: number; readonly flags: number }) {
    super(`unclean metadata found: magic 0x${hex32(details.magic)}, flags 0x${hex32(details.flags)}`)
    this.details = { drbdCode: DRBD_ERR_META_UNCLEAN, ...details }
  }
}

/** The device that the metadata describes does not fit: configured too large, or its data would be cut. */
export class MetadataCapacityError extends MetadataError {
  override readonly name = 'MetadataCapacityError'
  readonly code = 'E_META_CAPACITY'
  readonly hint: string
  readonly details: { readonly drbdCode: number; readonly usableSectors: number; readonly neededSectors: number }

  constructor(details: MetadataCapacityError['details']) {
    const shrink = details.drbdCode === DRBD_ERR_IMPLICIT_SHRINK
    super(
      shrink
        ? `the disk has room for ${details.usableSectors} sectors but holds consistent data of ${details.neededSectors}`
        : `the disk has room for ${details.usableSectors} sectors, the configured size is ${details.neededSectors}`,
    )
    this.hint = shrink
      ? 'The backing device became smaller. Give it back its size, or ask for the smaller size explicitly.'
      : 'Configure a smaller size, or none.'
    this.details = details
  }
}

/** A Primary crashed and its log cannot be read: which blocks differ is not known. Nothing was changed. */
export class ActivityLogUnusableError extends MetadataError {
  override readonly name = 'ActivityLogUnusableError'
  readonly code = 'E_META_LOG_UNUSABLE'
  readonly hint =
    "This disk cannot be attached. If the peer's data is good, run create-md here and let it sync in full."
  readonly details: {
    readonly drbdCode: number
    readonly reason: 'no-valid-block' | 'no-valid-update' | 'old-format'
    readonly blocks: number
    readonly corruptBlocks: number
  }

  constructor(details: Omit<ActivityLogUnusableError['details'], 'drbdCode'>) {
    super(
      details.reason === 'old-format'
        ? 'the activity log of a crashed Primary is in the format before 8.4'
        : `no usable activity log: ${details.corruptBlocks} of ${details.blocks} blocks are corrupt (${details.reason})`,
    )
    this.details = { drbdCode: DRBD_ERR_META_UNCLEAN, ...details }
  }
}

const hex32 = (value: number): string => (value >>> 0).toString(16).toUpperCase().padStart(8, '0')
