// The Entropy port: the operating system's random numbers, fetched 4 KiB at a time.

import { randomFillSync } from 'node:crypto'

import type { Entropy } from '../runtime/ports.ts'

const POOL_BYTES = 4096

export class SystemEntropy implements Entropy {
  readonly #pool = new DataView(new ArrayBuffer(POOL_BYTES))
  #usedBytes = POOL_BYTES

  u64(): bigint {
    return this.#pool.getBigUint64(this.#take(8))
  }

  u32(): number {
    return this.#pool.getUint32(this.#take(4))
  }

  /** Where the next unused bytes of the pool are. */
  #take(lengthBytes: number): number {
    if (this.#usedBytes + lengthBytes > POOL_BYTES) {
      randomFillSync(this.#pool)
      this.#usedBytes = 0
    }
    const offsetBytes = this.#usedBytes
    this.#usedBytes += lengthBytes
    return offsetBytes
  }
}
