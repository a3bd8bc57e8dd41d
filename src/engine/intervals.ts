// All ranges in progress of a volume: which of them touches the sectors of a new request? Asked several times for each
// read and write (docs/architecture.md, life of a write), so it must stay far below a microsecond and allocate nothing.
//
// Structure: nodes are rows of parallel arrays, chained by index. Every node is in the chain of all nodes, in the order
// of insertion, and in one other chain:
//
//   range          chain
//   <= 1 MiB       slot of the 1 MiB window of the device in which the range begins (a fixed hash table of 1024 slots)
//   > 1 MiB        one chain for all of them: such ranges are rare (trims, zeroing), so they are tried one by one
//
// A short range ends in the window where it begins or in the next one, so a short lookup tries its own windows, the one
// before, and the long ranges. A wide lookup, or a small set, goes through the chain of all nodes.
//
// Measured, a plain array against this, ns for two lookups, an insertion and a removal of 4 KiB ranges: scattered, 8
// entries: 180, 150; 64: 860, 120; 512: 6900, 160; 30000: 370000, 1400. Side by side in one window, 64: 360, 480; 512:
// 2300, 2400; 4000: 17000, 2400. The array wins only where either is quick enough.

import { assert } from '../base/assert.ts'

export interface SectorRange {
  readonly sector: number
  readonly sectors: number
}

const WINDOW_SECTORS = 2048
const WINDOWS_PER_ROW = 1024
const SLOTS = 1024
const CHAIN_LONG = SLOTS
const CHAIN_ALL = SLOTS + 1
const CHAINS = SLOTS + 2
/** Turns the slots from one GiB to the next, lest requests a power of two apart all share one. */
const ROW_TURN = 37
/** Windows of a lookup at most; windows this near to each other never share a slot, as it is below SLOTS - ROW_TURN. */
const LOOKUP_WINDOWS_MAX = 32
/** Below this size the chain of all nodes is quicker than three slots. */
const SCAN_MAX = 12
const NONE = -1
const CAPACITY_INITIAL = 64

/** Slot of the `window`-th MiB of a device. */
function slotOf(window: number): number {
  return (window + Math.floor(window / WINDOWS_PER_ROW) * ROW_TURN) & (SLOTS - 1)
}

function chainOf(range: SectorRange): number {
  return range.sectors > WINDOW_SECTORS ? CHAIN_LONG : slotOf(Math.floor(range.sector / WINDOW_SECTORS))
}

export class IntervalSet<T extends SectorRange> {
  /** Row i of these is node i. A free node has no item; free nodes hang together by `#next`. */
  #items: (T | undefined)[] = []
  /** First sector, and the one after the last; a range without sectors has +Infinity and -Infinity: it overlaps nothing. */
  #starts = new Float64Array(CAPACITY_INITIAL)
  #ends = new Float64Array(CAPACITY_INITIAL)
  /** Number of the insertion, ever growing: the order in which overlaps are reported. */
  #order = new Float64Array(CAPACITY_INITIAL)
  /** Neighbours in the slot or among the long ranges. */
  #next = new Int32Array(CAPACITY_INITIAL)
  #previous = new Int32Array(CAPACITY_INITIAL)
  /** Neighbours among all nodes. */
  #nextOfAll = new Int32Array(CAPACITY_INITIAL)
  #previousOfAll = new Int32Array(CAPACITY_INITIAL)
  readonly #heads = new Int32Array(CHAINS).fill(NONE)
  readonly #tails = new Int32Array(CHAINS).fill(NONE)
  #free = NONE
  #insertions = 0
  #size = 0
  /** Nodes found by `forEachOverlap` calls under way; a call nested in a visit uses the part behind its caller's. */
  readonly #found: number[] = []
  readonly #foundOrder: number[] = []
  #foundCount = 0

  get size(): number {
    return this.#size
  }

  /** `item` must not be in the set, and its range must not change while it is. */
  insert(item: T): void {
    assert(item.sector >= 0 && item.sectors >= 0, `range ${item.sector}+${item.sectors} is negative`)
    const node = this.#allocate()
    const empty = item.sectors === 0
    this.#items[node] = item
    this.#starts[node] = empty ? Number.POSITIVE_INFINITY : item.sector
    this.#ends[node] = empty ? Number.NEGATIVE_INFINITY : item.sector + item.sectors
    this.#order[node] = this.#insertions++
    this.#append(chainOf(item), node, this.#next, this.#previous)
    this.#append(CHAIN_ALL, node, this.#nextOfAll, this.#previousOfAll)
    this.#size++
  }

  /** Takes out this very object; false if it is not in the set. */
  remove(item: T): boolean {
    const chain = chainOf(item)
    let node = this.#heads[chain] as number
    while (node !== NONE && this.#items[node] !== item) node = this.#next[node] as number
    if (node === NONE) return false
    this.#unlink(chain, node, this.#next, this.#previous)
    this.#unlink(CHAIN_ALL, node, this.#nextOfAll, this.#previousOfAll)
    this.#items[node] = undefined
    this.#next[node] = this.#free
    this.#free = node
    this.#size--
    return true
  }

  /** Of the ranges that share a sector with the given one, the one inserted first; `except` is passed over. */
  firstOverlap(sector: number, sectors: number, except?: T): T | undefined {
    if (sectors <= 0) return undefined
    const end = sector + sectors
    const last = Math.floor((end - 1) / WINDOW_SECTORS)
    const first = Math.max(0, Math.floor(sector / WINDOW_SECTORS) - 1)
    if (this.#size <= SCAN_MAX || last - first >= LOOKUP_WINDOWS_MAX) {
      const node = this.#firstIn(CHAIN_ALL, this.#nextOfAll, sector, end, except)
      return node === NONE ? undefined : this.#items[node]
    }
    let best = this.#firstIn(CHAIN_LONG, this.#next, sector, end, except)
    for (let window = first; window <= last; window++) {
      const node = this.#firstIn(slotOf(window), this.#next, sector, end, except)
      if (node === NONE) continue
      if (best === NONE || (this.#order[node] as number) < (this.#order[best] as number)) best = node
    }
    return best === NONE ? undefined : this.#items[best]
  }

  /**
   * Visits, in the order of insertion, the ranges that share a sector with the given one at the time of the call. `visit`
   * may change the set: what it removes is not visited any more, what it inserts is not visited either.
   */
  forEachOverlap(sector: number, sectors: number, visit: (item: T) => void): void {
    if (sectors <= 0) return
    const base = this.#foundCount
    this.#collect(sector, sector + sectors)
    const count = this.#foundCount
    try {
      for (let i = base; i < count; i++) {
        const node = this.#found[i] as number
        const item = this.#items[node]
        // The order tells a node that was freed and used again by an earlier visit from the one that was found.
        if (item !== undefined && this.#order[node] === this.#foundOrder[i]) visit(item)
      }
    } finally {
      this.#foundCount = base
    }
  }

  /** All ranges in the order of insertion. The set must not change meanwhile. */
  *[Symbol.iterator](): Generator<T> {
    for (let node = this.#heads[CHAIN_ALL] as number; node !== NONE; node = this.#nextOfAll[node] as number) {
      yield this.#items[node] as T
    }
  }

  /** Puts the overlapping nodes behind those of `#found` in use, in the order of insertion. */
  #collect(sector: number, end: number): void {
    const base = this.#foundCount
    const last = Math.floor((end - 1) / WINDOW_SECTORS)
    const first = Math.max(0, Math.floor(sector / WINDOW_SECTORS) - 1)
    if (this.#size <= SCAN_MAX || last - first >= LOOKUP_WINDOWS_MAX) {
      this.#collectChain(base, CHAIN_ALL, this.#nextOfAll, sector, end)
      return
    }
    this.#collectChain(base, CHAIN_LONG, this.#next, sector, end)
    for (let window = first; window <= last; window++) {
      this.#collectChain(base, slotOf(window), this.#next, sector, end)
    }
  }

  #collectChain(base: number, chain: number, next: Int32Array, sector: number, end: number): void {
    let node = this.#heads[chain] as number
    while (node !== NONE) {
      if ((this.#starts[node] as number) < end && (this.#ends[node] as number) > sector) this.#addFound(base, node)
      node = next[node] as number
    }
  }

  /** Insertion sort from the back: chains are in order, and overlaps are few. */
  #addFound(base: number, node: number): void {
    const order = this.#order[node] as number
    let at = this.#foundCount++
    while (at > base && (this.#foundOrder[at - 1] as number) > order) {
      this.#found[at] = this.#found[at - 1] as number
      this.#foundOrder[at] = this.#foundOrder[at - 1] as number
      at--
    }
    this.#found[at] = node
    this.#foundOrder[at] = order
  }

  #firstIn(chain: number, next: Int32Array, sector: number, end: number, except: T | undefined): number {
    let node = this.#heads[chain] as number
    while (node !== NONE) {
      if ((this.#starts[node] as number) < end && (this.#ends[node] as number) > sector) {
        if (except === undefined || this.#items[node] !== except) return node
      }
      node = next[node] as number
    }
    return NONE
  }

  #append(chain: number, node: number, next: Int32Array, previous: Int32Array): void {
    const tail = this.#tails[chain] as number
    next[node] = NONE
    previous[node] = tail
    if (tail === NONE) this.#heads[chain] = node
    else next[tail] = node
    this.#tails[chain] = node
  }

  #unlink(chain: number, node: number, next: Int32Array, previous: Int32Array): void {
    const before = previous[node] as number
    const after = next[node] as number
    if (before === NONE) this.#heads[chain] = after
    else next[before] = after
    if (after === NONE) this.#tails[chain] = before
    else previous[after] = before
  }

  #allocate(): number {
    const node = this.#free
    if (node !== NONE) {
      this.#free = this.#next[node] as number
      return node
    }
    if (this.#items.length === this.#starts.length) this.#grow()
    return this.#items.push(undefined) - 1
  }

  #grow(): void {
    const capacity = this.#starts.length * 2
    const floats = (from: Float64Array): Float64Array<ArrayBuffer> => {
      const to = new Float64Array(capacity)
      to.set(from)
      return to
    }
    const integers = (from: Int32Array): Int32Array<ArrayBuffer> => {
      const to = new Int32Array(capacity)
      to.set(from)
      return to
    }
    this.#starts = floats(this.#starts)
    this.#ends = floats(this.#ends)
    this.#order = floats(this.#order)
    this.#next = integers(this.#next)
    this.#previous = integers(this.#previous)
    this.#nextOfAll = integers(this.#nextOfAll)
    this.#previousOfAll = integers(this.#previousOfAll)
  }
}
