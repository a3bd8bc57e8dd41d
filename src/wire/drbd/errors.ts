// What a peer can do wrong on a DRBD stream, besides a bad value in a field (BadFieldError). Each of them ends the connection;
// the bytes behind it cannot be trusted.

import { AppError } from '../../base/errors.ts'

export { BadFieldError } from '../fields.ts'

export class WrongMagicError extends AppError {
  override readonly name = 'WrongMagicError'
  readonly code = 'E_WRONG_MAGIC'
  readonly hint = 'Something that does not speak DRBD 8.4 uses this port, or bytes were lost on the way.'
  readonly details: { readonly magic: number; readonly apv: number }

  constructor(details: WrongMagicError['details']) {
    super(`0x${details.magic.toString(16).padStart(8, '0')} is no packet header of protocol version ${details.apv}`)
    this.details = details
  }
}

export class WrongLengthError extends AppError {
  override readonly name = 'WrongLengthError'
  readonly code = 'E_WRONG_LENGTH'
  readonly hint = 'Check that both hosts agree on the protocol version, the features and the integrity algorithm.'
  readonly details: { readonly packet: string; readonly lengthBytes: number; readonly expected: string }

  constructor(details: WrongLengthError['details']) {
    super(`${details.packet}: peer announced ${details.lengthBytes} bytes, expected ${details.expected}`)
    this.details = details
  }
}

export class FrameTooLargeError extends AppError {
  override readonly name = 'FrameTooLargeError'
  readonly code = 'E_FRAME_TOO_LARGE'
  readonly hint = 'Check that both hosts speak the same protocol version and that only the peer uses this port.'
  readonly details: { readonly packet: string; readonly lengthBytes: number; readonly lengthBytesMax: number }

  constructor(details: FrameTooLargeError['details']) {
    super(`${details.packet}: peer announced ${details.lengthBytes} bytes, the limit is ${details.lengthBytesMax}`)
    this.details = details
  }
}

/** A bitmap packet of another length than the position in the transfer asks for (3.17). */
export class BitmapLengthError extends AppError {
  override readonly name = 'BitmapLengthError'
  readonly code = 'E_BITMAP_LENGTH'
  readonly hint = 'Check that both hosts agree on the size of the device.'
  readonly details: { readonly lengthBytes: number; readonly lengthBytesExpected: number; readonly bits: number }

  constructor(details: BitmapLengthError['details']) {
    super(
      `P_BITMAP: peer sent ${details.lengthBytes} bytes where ${details.lengthBytesExpected} of a bitmap of ${details.bits} bits are due`,
    )
    this.details = details
  }
}

/** A run-length coded bitmap that goes beyond the last bit (3.18). */
export class BitmapOvershootError extends AppError {
  override readonly name = 'BitmapOvershootError'
  readonly code = 'E_BITMAP_OVERSHOOT'
  readonly hint = 'Check that both hosts agree on the size of the device.'
  readonly details: { readonly fromBit: number; readonly runBits: number; readonly bits: number }

  constructor(details: BitmapOvershootError['details']) {
    super(
      `P_COMPRESSED_BITMAP: a run of ${details.runBits} bits at bit ${details.fromBit} goes beyond the last of ${details.bits}`,
    )
    this.details = details
  }
}

/** The first byte of a compressed bitmap names a code that does not exist (3.18). */
export class UnknownBitmapEncodingError extends AppError {
  override readonly name = 'UnknownBitmapEncodingError'
  readonly code = 'E_BITMAP_ENCODING'
  readonly hint = 'Set use-rle to no on the peer.'
  readonly details: { readonly encoding: number }

  constructor(details: UnknownBitmapEncodingError['details']) {
    super(`P_COMPRESSED_BITMAP: unknown code ${details.encoding & 15}`)
    this.details = details
  }
}

/** A compressed bitmap that ends in the middle of a code word, or holds none (3.18). */
export class BitmapCodeError extends AppError {
  override readonly name = 'BitmapCodeError'
  readonly code = 'E_BITMAP_CODE'
  readonly hint = 'Set use-rle to no on the peer.'
  readonly details: { readonly codeBits: number; readonly atCodeBit: number }

  constructor(details: BitmapCodeError['details']) {
    super(`P_COMPRESSED_BITMAP: no complete code word at bit ${details.atCodeBit} of ${details.codeBits}`)
    this.details = details
  }
}
