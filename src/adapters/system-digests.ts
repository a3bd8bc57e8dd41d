// The Digests port on node:crypto, under the names of the Linux kernel's crypto API. crc32c, which node:crypto lacks, is
// stored as the kernel stores it: standard CRC-32C, little-endian (wire-protocol.md 3.20).

import * as crypto from 'node:crypto'

import { crc32c } from '../base/crc32c.ts'
import { AppError } from '../base/errors.ts'
import type { Digests } from '../runtime/ports.ts'

/** Those called the same by node:crypto. A FIPS build of OpenSSL lacks some: they are unknown then. */
const CRYPTO_SIZES: ReadonlyMap<string, number> = new Map([
  ['md5', 16],
  ['sha1', 20],
  ['sha224', 28],
  ['sha256', 32],
  ['sha384', 48],
  ['sha512', 64],
])

export class UnknownDigestError extends AppError {
  override readonly name = 'UnknownDigestError'
  readonly code = 'E_UNKNOWN_DIGEST'
  readonly hint = 'Use sha1, sha256, sha512 or md5, or for checksums without a key also crc32c, on both hosts.'
  readonly details: { readonly algorithm: string; readonly keyed: boolean }

  constructor(details: UnknownDigestError['details']) {
    super(`no ${details.keyed ? 'keyed ' : ''}digest is called ${details.algorithm}`)
    this.details = details
  }
}

type OneShot = (algorithm: string, data: Uint8Array, encoding: 'buffer') => Uint8Array
/** One call instead of three, since Node.js 20.12. */
const oneShot = (crypto as unknown as { hash?: OneShot }).hash

export class SystemDigests implements Digests {
  readonly #sizes: ReadonlyMap<string, number>

  constructor() {
    const here = new Set(crypto.getHashes())
    this.#sizes = new Map([...CRYPTO_SIZES].filter(([algorithm]) => here.has(algorithm)))
  }

  sizeBytes(algorithm: string): number | undefined {
    return algorithm === 'crc32c' ? 4 : this.#sizes.get(algorithm)
  }

  /** Throws UnknownDigestError where `sizeBytes` gives undefined. */
  digest(algorithm: string, data: Uint8Array): Uint8Array {
    if (algorithm === 'crc32c') return crc32cBytes(data)
    if (!this.#sizes.has(algorithm)) throw new UnknownDigestError({ algorithm, keyed: false })
    if (oneShot !== undefined) return oneShot(algorithm, data, 'buffer')
    return crypto.createHash(algorithm).update(data).digest()
  }

  /** A checksum cannot be keyed: as in the kernel, there is no hmac(crc32c). */
  hmac(algorithm: string, key: Uint8Array, message: Uint8Array): Uint8Array {
    if (!this.#sizes.has(algorithm)) throw new UnknownDigestError({ algorithm, keyed: true })
    return crypto.createHmac(algorithm, key).update(message).digest()
  }
}

function crc32cBytes(data: Uint8Array): Uint8Array {
  const digest = new Uint8Array(4)
  new DataView(digest.buffer).setUint32(0, crc32c(data), true)
  return digest
}
