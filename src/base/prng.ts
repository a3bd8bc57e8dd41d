// The project's only source of pseudo-randomness: xoshiro128** seeded by splitmix32. Integers and ratios only, so that one
// seed gives one sequence on every machine. `fork` derives an independent generator by name: turning the use of one off
// does not change the others.
// Source of the algorithm: D. Blackman and S. Vigna, "Scrambled linear pseudorandom number generators" (public domain).

export class Prng {
  readonly #state: Uint32Array

  constructor(seed: number) {
    this.#state = new Uint32Array(4)
    let z = seed >>> 0
    for (let i = 0; i < 4; i++) {
      z = (z + 0x9e3779b9) >>> 0
      let x = z
      x = Math.imul(x ^ (x >>> 16), 0x85ebca6b)
      x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35)
      this.#state[i] = (x ^ (x >>> 16)) >>> 0
    }
  }

  fork(name: string): Prng {
    let hash = 0x811c9dc5
    for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193)
    const s = this.#state
    return new Prng((hash ^ (s[0] as number) ^ rotl(s[1] as number, 11) ^ rotl(s[2] as number, 19)) >>> 0)
  }

  u32(): number {
    const s = this.#state as unknown as [number, number, number, number]
    const result = Math.imul(rotl(Math.imul(s[1], 5), 7), 9) >>> 0
    const t = s[1] << 9
    s[2] ^= s[0]
    s[3] ^= s[1]
    s[1] ^= s[2]
    s[0] ^= s[3]
    s[2] ^= t
    s[3] = rotl(s[3], 11)
    return result
  }

  u64(): bigint {
    return (BigInt(this.u32()) << 32n) | BigInt(this.u32())
  }

  /** An integer from `min` to `max`, both included. */
  intInclusive(min: number, max: number): number {
    const span = max - min + 1
    if (span <= 0x1_0000_0000) return min + (this.u32() % span)
    return min + Number(this.u64() % BigInt(span))
  }

  /** True with probability numerator / denominator. */
  chance(numerator: number, denominator: number): boolean {
    return this.u32() % denominator < numerator
  }

  pick<T>(items: readonly T[]): T {
    return items[this.u32() % items.length] as T
  }

  fill(bytes: Uint8Array): void {
    for (let i = 0; i < bytes.length; i++) bytes[i] = this.u32() & 0xff
  }
}

const rotl = (value: number, by: number): number => (value << by) | (value >>> (32 - by))
