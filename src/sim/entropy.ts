// Randomness of a simulated host: a generator forked from the seed of the run.

import type { Prng } from '../base/prng.ts'
import type { Entropy } from '../runtime/ports.ts'

export class SimEntropy implements Entropy {
  readonly #prng: Prng

  constructor(prng: Prng) {
    this.#prng = prng
  }

  u64(): bigint {
    return this.#prng.u64()
  }

  u32(): number {
    return this.#prng.u32()
  }
}
