// Writes that were in flight when a link was lost, between two hosts that both come back as they were (rule 42 of
// generations.ts). The target of the resync that follows asks the source which of its writes had been applied there:
//
//   target ── P_IN_DOUBT [block ids] ──▶ source
//          ◀── P_APPLIED [block ids] ───
//
// Why: readers of the source may have seen such a write, and may have written after it. Sending it again as a new write
// would bring an old value back. One that was not applied was seen by nobody and may be sent again at any time.
//
// The source remembers what it applied until it knows that the acknowledgement has arrived: the writer sends one flush at a
// time, so its next flush says that it has read everything up to the acknowledgement of the one before.

/** Block ids of the peer's writes that were applied here, as far as they may be asked for. */
export class AppliedWrites {
  /** Since the last flush was acknowledged. */
  #recent: number[] = []
  /** Before it, since the one before that. */
  #earlier: number[] = []

  add(blockIdLo: number): void {
    this.#recent.push(blockIdLo)
  }

  onFlushReceived(): void {
    this.#earlier = []
  }

  onFlushAcknowledged(): void {
    this.#earlier = this.#earlier.concat(this.#recent)
    this.#recent = []
  }

  among(blockIds: readonly number[]): number[] {
    const asked = new Set(blockIds)
    return [...this.#earlier, ...this.#recent].filter((id) => asked.has(id))
  }
}

export function encodeCookies(cookies: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(cookies.length * 4)
  const view = new DataView(bytes.buffer)
  for (const [i, cookie] of cookies.entries()) view.setUint32(i * 4, cookie)
  return bytes
}

export function decodeCookies(payload: Uint8Array): number[] {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength)
  return Array.from({ length: payload.length / 4 }, (_, i) => view.getUint32(i * 4))
}
