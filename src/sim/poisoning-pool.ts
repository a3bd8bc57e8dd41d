// Memory that is spoilt as soon as nobody may look at it any more: whoever still does is found by the checkers.

import { BufferPool } from '../base/buffer-pool.ts'
import { MIB } from '../base/units.ts'

export const POISON = 0xdb

export class PoisoningPool extends BufferPool {
  constructor() {
    super(MIB)
  }

  override give(bytes: Uint8Array): void {
    bytes.fill(POISON)
    super.give(bytes)
  }
}
