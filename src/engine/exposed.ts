// Which data a host without an attached disk may serve. Its clients have seen a certain generation; a Primary must not find
// itself on older or foreign data, neither of its own disk, attached again, nor of a peer that comes back (wire-protocol.md
// 4.3, "exposed data UUID"; 5.2: the peer makes a new generation when this host's disk is lost).

import { sameGeneration, type Uuids } from '../meta/uuids.ts'

/** Of a disk that is attached: what it holds, less a generation that was abandoned. */
export function uuidsFound({ current, bitmap, history1, history2 }: Uuids, exposed: ExposedData): Uuids {
  if (exposed.isAbandoned(current)) return { current: bitmap, bitmap: 0n, history1, history2 }
  return { current, bitmap, history1, history2 }
}

export class ExposedData {
  /** The generation that clients see, or saw last; two if a new one was being written when the disk failed. Empty: none yet. */
  #generations: readonly bigint[] = []
  /** The own disk has missed what the peer got since, and the peer has not told yet by which new generation that is known. */
  #staleHere = false
  /** A new one that was being written when the disk failed: nothing was answered under it, and what went on was the one before. */
  #abandoned: bigint | undefined
  /** Of the peer with the data that this host, without a disk, was connected to. */
  #peer: Uuids | undefined
  /** Of the own disk that was lost, while UpToDate. */
  #lost: Uuids | undefined

  /** A disk is attached again. */
  clear(): void {
    this.#generations = []
    this.#peer = undefined
    this.#lost = undefined
    this.#abandoned = undefined
    this.#staleHere = false
  }

  /**
   * The own, UpToDate disk is lost. `unsaved`: its newest generation was being written. `alsoOnPeer`: the peer has all of it, and
   * goes on.
   */
  onOwnLost(uuids: Uuids, { unsaved, alsoOnPeer }: { unsaved: boolean; alsoOnPeer: boolean }): void {
    this.#generations = unsaved ? [uuids.current, uuids.bitmap] : [uuids.current]
    this.#staleHere = alsoOnPeer
    this.#lost = unsaved ? undefined : uuids
  }

  /** The own disk is lost, and was known to be older than another one; on itself that need not be noted yet. */
  onOldLost(): void {
    this.#staleHere = true
  }

  /** Clients see the peer's data. */
  follow(peer: Uuids): void {
    if (!this.#holds(peer.current)) this.#staleHere = false
    const [newest, before] = this.#generations
    if (newest !== undefined && before !== undefined && sameGeneration(peer.current, before)) this.#abandoned = newest
    this.#generations = [peer.current]
    this.#peer = peer
  }

  isAbandoned(current: bigint): boolean {
    return this.#abandoned !== undefined && sameGeneration(current, this.#abandoned)
  }

  /** The peer has gone on from these data of ours, and they have missed that, whoever wrote. */
  hasOutdated(current: bigint): boolean {
    if (this.#staleHere) return true
    if (this.#peer === undefined || this.#holds(current)) return false
    return isAmongPast(current, this.#peer)
  }

  /** The peer's data are what the lost disk had before it went on. */
  isPast(peer: bigint): boolean {
    if (this.#lost === undefined || sameGeneration(peer, this.#lost.current)) return false
    return isAmongPast(peer, this.#lost)
  }

  mayServeOwn(current: bigint): boolean {
    return this.#generations.length === 0 || (!this.#staleHere && this.#holds(current))
  }

  mayServePeer(peer: Uuids): boolean {
    if (this.#generations.length === 0 || this.#holds(peer.current)) return true
    return this.#staleHere && this.#holds(peer.bitmap)
  }

  #holds(generation: bigint): boolean {
    return this.#generations.some((exposed) => sameGeneration(exposed, generation))
  }
}

const isAmongPast = (generation: bigint, { bitmap, history1, history2 }: Uuids): boolean =>
  [bitmap, history1, history2].some((past) => past !== 0n && sameGeneration(past, generation))
