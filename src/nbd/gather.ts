// Replies of one turn, collected so that they leave in one call. Headers are written into a slab, and headers that
// follow each other become one chunk; data of reads goes by reference.

const SLAB_BYTES = 4096

export class Gather {
  #chunks: Uint8Array[] = []
  #slab = new Uint8Array(SLAB_BYTES)
  /** Header bytes from here to `#slabEnd` are written and not yet in `#chunks`. */
  #slabStart = 0
  #slabEnd = 0
  #lengthBytes = 0

  get lengthBytes(): number {
    return this.#lengthBytes
  }

  /** Where `reserve` reserved. A new array after `reserve`: read it after the call. */
  get slab(): Uint8Array {
    return this.#slab
  }

  /** Room for a header of at most SLAB_BYTES; the place in `slab`. The caller fills it completely. */
  reserve(lengthBytes: number): number {
    if (this.#slabEnd + lengthBytes > this.#slab.length) {
      this.#endRun()
      this.#slab = new Uint8Array(SLAB_BYTES) // the old one may still be on its way out
      this.#slabStart = 0
      this.#slabEnd = 0
    }
    const at = this.#slabEnd
    this.#slabEnd += lengthBytes
    this.#lengthBytes += lengthBytes
    return at
  }

  append(chunk: Uint8Array): void {
    if (chunk.length === 0) return
    this.#endRun()
    this.#chunks.push(chunk)
    this.#lengthBytes += chunk.length
  }

  /** All that is collected; the gather is empty then. */
  take(): Uint8Array[] {
    this.#endRun()
    const chunks = this.#chunks
    this.#chunks = []
    this.#lengthBytes = 0
    return chunks
  }

  #endRun(): void {
    if (this.#slabStart === this.#slabEnd) return
    this.#chunks.push(this.#slab.subarray(this.#slabStart, this.#slabEnd))
    this.#slabStart = this.#slabEnd
  }
}
