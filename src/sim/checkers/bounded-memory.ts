// What a host holds is bounded, however slow its peer, its disk or the network: bytes queued to a link, operations and
// bytes queued to the disk. Clients are held back instead (`admits`).

export interface MemoryLimits {
  readonly linkQueueBytesMax: number
  readonly diskQueueBytesMax: number
  readonly diskQueueOperationsMax: number
  readonly inFlightBytesMax: number
}

export interface MemoryUse {
  readonly host: string
  readonly linkQueueBytes: number
  readonly diskQueueBytes: number
  readonly diskQueueOperations: number
  /** As the replica says itself. */
  readonly inFlightBytes: number
}

/**
 * Limits that follow from the limit of application data in flight on each host: own writes and the peer's may be queued at
 * once, resync has a bounded share, and a bitmap of a large device goes out as a whole.
 */
export function limitsFor(options: {
  inFlightBytesMax: number
  requestBytesMax: number
  deviceBytes: number
}): MemoryLimits {
  const { inFlightBytesMax, requestBytesMax, deviceBytes } = options
  const resyncBytesMax = 8 * 1024 * 1024
  const bitmapBytes = Math.ceil(deviceBytes / (8 * 4096))
  return {
    linkQueueBytesMax: 2 * (inFlightBytesMax + requestBytesMax) + resyncBytesMax + 2 * bitmapBytes,
    diskQueueBytesMax: 2 * (inFlightBytesMax + requestBytesMax) + resyncBytesMax + 2 * bitmapBytes,
    diskQueueOperationsMax: 20_000,
    inFlightBytesMax: inFlightBytesMax + requestBytesMax,
  }
}

/** A message about the first limit that is exceeded. */
export function checkMemory(use: MemoryUse, limits: MemoryLimits): string | undefined {
  const over = (what: string, actual: number, limit: number): string | undefined =>
    actual > limit ? `${use.host}: ${what} ${actual}, the limit is ${limit}` : undefined
  return (
    over('bytes queued to a link', use.linkQueueBytes, limits.linkQueueBytesMax) ??
    over('bytes queued to the disk', use.diskQueueBytes, limits.diskQueueBytesMax) ??
    over('operations queued to the disk', use.diskQueueOperations, limits.diskQueueOperationsMax) ??
    over('bytes in flight', use.inFlightBytes, limits.inFlightBytesMax)
  )
}
