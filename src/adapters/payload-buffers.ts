// Memory for the data of requests, shared by all resources and connections of the process.

import { BufferPool } from '../base/buffer-pool.ts'
import { MIB } from '../base/units.ts'

/** Kept for later; what is in flight is bounded elsewhere (`in-flight-max`). */
const FREE_BYTES_MAX = 32 * MIB

export const PAYLOAD_BUFFERS = new BufferPool(FREE_BYTES_MAX, (lengthBytes) => Buffer.allocUnsafeSlow(lengthBytes))
