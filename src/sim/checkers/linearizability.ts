// Is a history of one sector that of a register: does every read and write take effect at one instant between its request
// and its reply? Exact and O(n log n) for unique values, after P. Gibbons and E. Korach, "Testing shared memories" (SIAM J.
// Comput. 26(4), 1997), the case with a known read-mapping:
//
//   A cluster is a write and the reads of its value. In any legal order a cluster is contiguous, the write first. Let f
//   be the earliest response and s the latest invocation in a cluster: if f < s, the cluster needs the whole time from f
//   to s for itself (a forward zone [f, s]); otherwise some instant of [s, f] is enough (a backward zone). Cluster C must
//   come before D if and only if f(C) < s(D). The history is legal if and only if no two clusters must each come before
//   the other (two overlapping forward zones, or a backward zone inside a forward one), each value read was written, and
//   no read ended before its write began. Pairs are enough: a longer cycle always contains a pair (a backward cluster in
//   a cycle can be skipped, and forward zones that do not overlap have one order).
//
// Times are compared strictly: operations that touch at one instant are concurrent. A sector is a register of its own, and
// linearizability is a local property, so checking sector by sector is exact for requests of many sectors as well (a
// request over several sectors need not be atomic as a whole).
//
// A write without a known outcome (the client crashed, or an error was answered) may take effect at any time after its
// invocation, or never: it counts only if a read saw it, with a response at infinity. A read without an answer says nothing.
//
// Values written more than once, in practice 0 by discard and write-zeroes, and the initial value: with repeated values
// the problem is NP-complete, so here the check is sound and not complete. The clusters of unique values are checked as
// above (removing all operations of one value from a legal history leaves a legal one). Then each read of a repeated value
// is checked on its own: some write of that value must exist for which the pair {write, read} as a cluster is legal beside
// the unique ones. What escapes are only contradictions among the reads of the repeated value itself.

/** One operation on one sector. Times in any unit, as long as an operation is not answered before it was invoked. */
export interface RegisterOperation {
  readonly kind: 'read' | 'write'
  readonly value: number | string
  readonly invokedAt: number
  /** Undefined: no answer, or an answer that leaves open whether the write took effect. */
  readonly completedAt: number | undefined
}

export interface RegisterViolation {
  readonly reason: 'never-written' | 'read-before-write' | 'no-order'
  readonly message: string
  /** The values that cannot both be right. */
  readonly values: readonly (number | string)[]
}

interface Cluster {
  readonly value: number | string
  /** f: earliest response. */
  firstResponse: number
  /** s: latest invocation. */
  lastInvocation: number
}

/** Undefined if the history is legal. The sector holds `initialValue` before everything. */
export function checkRegister(
  operations: readonly RegisterOperation[],
  initialValue: number | string = 0,
): RegisterViolation | undefined {
  const initialWrite: RegisterOperation = {
    kind: 'write',
    value: initialValue,
    invokedAt: Number.NEGATIVE_INFINITY,
    completedAt: Number.NEGATIVE_INFINITY,
  }
  const writes = groupByValue(operations, 'write')
  writes.set(initialValue, [initialWrite, ...(writes.get(initialValue) ?? [])])
  const reads = groupByValue(operations, 'read')
  for (const [value, readsOfValue] of reads) {
    const violation = checkReadMapping(value, readsOfValue, writes.get(value))
    if (violation !== undefined) return violation
  }
  const clusters: Cluster[] = []
  for (const [value, writesOfValue] of writes) {
    const [write] = writesOfValue
    if (writesOfValue.length > 1 || write === undefined) continue
    const readsOfValue = reads.get(value) ?? []
    if (write.completedAt === undefined && readsOfValue.length === 0) continue
    clusters.push(clusterOf(write, readsOfValue))
  }
  const conflicts = new ConflictIndex(clusters)
  for (const cluster of clusters) {
    const other = conflicts.find(cluster)
    if (other !== undefined) return noOrder(cluster, other)
  }
  for (const [value, writesOfValue] of writes) {
    if (writesOfValue.length === 1) continue
    const violation = checkRepeatedValue(writesOfValue, reads.get(value) ?? [], conflicts)
    if (violation !== undefined) return violation
  }
  return undefined
}

function groupByValue(
  operations: readonly RegisterOperation[],
  kind: 'read' | 'write',
): Map<number | string, RegisterOperation[]> {
  const groups = new Map<number | string, RegisterOperation[]>()
  for (const operation of operations) {
    if (operation.kind !== kind) continue
    if (kind === 'read' && operation.completedAt === undefined) continue
    const group = groups.get(operation.value)
    if (group === undefined) groups.set(operation.value, [operation])
    else group.push(operation)
  }
  return groups
}

/** Each read needs a write of its value that began before the read ended. */
function checkReadMapping(
  value: number | string,
  reads: readonly RegisterOperation[],
  writes: readonly RegisterOperation[] | undefined,
): RegisterViolation | undefined {
  if (writes === undefined) {
    return { reason: 'never-written', message: `${at(reads[0])} returned a value never written`, values: [value] }
  }
  let firstWrite = writes[0] as RegisterOperation
  for (const write of writes) if (write.invokedAt < firstWrite.invokedAt) firstWrite = write
  for (const read of reads) {
    if (responseOf(read) >= firstWrite.invokedAt) continue
    const message = `${at(read)} returned a value whose ${at(firstWrite)} began later`
    return { reason: 'read-before-write', message, values: [value] }
  }
  return undefined
}

function clusterOf(write: RegisterOperation, reads: readonly RegisterOperation[]): Cluster {
  const cluster = { value: write.value, firstResponse: responseOf(write), lastInvocation: write.invokedAt }
  for (const read of reads) {
    cluster.firstResponse = Math.min(cluster.firstResponse, responseOf(read))
    cluster.lastInvocation = Math.max(cluster.lastInvocation, read.invokedAt)
  }
  return cluster
}

/** Answers in O(log n) whether a cluster and one of the given ones must each come before the other. */
class ConflictIndex {
  /** Sorted by first response. */
  readonly #clusters: readonly Cluster[]
  /** For each position: of the clusters up to there, the two with the latest invocations. */
  readonly #latest: Cluster[] = []
  readonly #secondLatest: (Cluster | undefined)[] = []

  constructor(clusters: readonly Cluster[]) {
    this.#clusters = [...clusters].sort((a, b) => compare(a.firstResponse, b.firstResponse))
    let latest: Cluster | undefined
    let second: Cluster | undefined
    for (const cluster of this.#clusters) {
      if (latest === undefined || cluster.lastInvocation > latest.lastInvocation) {
        second = latest
        latest = cluster
      } else if (second === undefined || cluster.lastInvocation > second.lastInvocation) second = cluster
      this.#latest.push(latest)
      this.#secondLatest.push(second)
    }
  }

  /** A cluster D other than `cluster` with f(D) < s(cluster) and f(cluster) < s(D). */
  find(cluster: Cluster): Cluster | undefined {
    const count = countWhile(this.#clusters, (other) => other.firstResponse < cluster.lastInvocation)
    if (count === 0) return undefined
    const latest = this.#latest[count - 1]
    const candidate = latest === cluster ? this.#secondLatest[count - 1] : latest
    return candidate !== undefined && cluster.firstResponse < candidate.lastInvocation ? candidate : undefined
  }
}

/** How many items at the start hold the condition, if all that hold it stand at the start. */
function countWhile<T>(items: readonly T[], holds: (item: T) => boolean): number {
  let low = 0
  let high = items.length
  while (low < high) {
    const middle = (low + high) >> 1
    if (holds(items[middle] as T)) low = middle + 1
    else high = middle
  }
  return low
}

function noOrder(cluster: Cluster, other: Cluster): RegisterViolation {
  const [first, second] = cluster.firstResponse <= other.firstResponse ? [cluster, other] : [other, cluster]
  const message =
    `no order: value ${first.value} was there at ${first.firstResponse} and again asked for and got at ` +
    `${first.lastInvocation}, value ${second.value} at ${second.firstResponse} and ${second.lastInvocation}`
  return { reason: 'no-order', message, values: [first.value, second.value] }
}

function checkRepeatedValue(
  writes: readonly RegisterOperation[],
  reads: readonly RegisterOperation[],
  conflicts: ConflictIndex,
): RegisterViolation | undefined {
  const byInvocation = [...writes].sort((a, b) => compare(a.invokedAt, b.invokedAt))
  // Of the writes invoked before a read, the one answered last leaves the most room.
  const latestAnswered: RegisterOperation[] = []
  for (const write of byInvocation) {
    const before = latestAnswered[latestAnswered.length - 1]
    latestAnswered.push(before !== undefined && responseOf(before) >= responseOf(write) ? before : write)
  }
  for (const read of reads) {
    let index = countWhile(byInvocation, (write) => write.invokedAt <= read.invokedAt)
    const before = latestAnswered[index - 1]
    let conflict = before === undefined ? undefined : conflicts.find(clusterOf(before, [read]))
    let explained = before !== undefined && conflict === undefined
    // And any write invoked while the read was under way.
    for (; !explained && index < byInvocation.length; index++) {
      const write = byInvocation[index] as RegisterOperation
      if (write.invokedAt > responseOf(read)) break
      const found = conflicts.find(clusterOf(write, [read]))
      explained = found === undefined
      conflict = conflict ?? found
    }
    if (explained) continue
    const message = `${at(read)} of value ${read.value}, which several writes wrote, fits none of them beside ${conflict?.value}`
    return { reason: 'no-order', message, values: conflict === undefined ? [read.value] : [read.value, conflict.value] }
  }
  return undefined
}

/** Not a subtraction: infinities. Sorting is stable, so equal times keep the order of the input. */
const compare = (a: number, b: number): number => (a < b ? -1 : a > b ? 1 : 0)
const responseOf = (operation: RegisterOperation): number => operation.completedAt ?? Number.POSITIVE_INFINITY

function at(operation: RegisterOperation | undefined): string {
  if (operation === undefined) return 'operation'
  return `${operation.kind} [${operation.invokedAt}, ${operation.completedAt ?? 'no answer'}]`
}

/** A request of many sectors, as a client saw it: `values[i]` is what was written to, or read from, `sector + i`. */
export interface RequestRecord {
  readonly kind: 'read' | 'write'
  readonly sector: number
  readonly values: readonly (number | string)[]
  readonly invokedAt: number
  readonly completedAt: number | undefined
}

/** The history of each sector that was touched, in the order of the requests. */
export function splitIntoSectors(requests: readonly RequestRecord[]): Map<number, RegisterOperation[]> {
  const sectors = new Map<number, RegisterOperation[]>()
  for (const { kind, sector, values, invokedAt, completedAt } of requests) {
    for (let i = 0; i < values.length; i++) {
      const operation = { kind, value: values[i] as number | string, invokedAt, completedAt }
      const history = sectors.get(sector + i)
      if (history === undefined) sectors.set(sector + i, [operation])
      else history.push(operation)
    }
  }
  return sectors
}
