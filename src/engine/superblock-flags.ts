// The flags of the superblock (metadata.md 2) that follow from the state of a volume.

import {
  MDF_AL_CLEAN,
  MDF_CONNECTED_IND,
  MDF_CONSISTENT,
  MDF_CRASHED_PRIMARY,
  MDF_FULL_SYNC,
  MDF_PEER_OUTDATED,
  MDF_PRIMARY_IND,
  MDF_WAS_UPTODATE,
} from '../meta/superblock.ts'
import { C_CONNECTED, D_CONSISTENT, D_INCONSISTENT, D_OUTDATED, D_UPTODATE, R_PRIMARY } from '../wire/drbd/constants.ts'
import type { StateWord } from '../wire/drbd/state-word.ts'

/** The states that diskStateFromFlags names. */
export const DISK_OF_NAME = new Map([
  ['Inconsistent', D_INCONSISTENT],
  ['Outdated', D_OUTDATED],
  ['Consistent', D_CONSISTENT],
  ['UpToDate', D_UPTODATE],
])

const DECIDED_HERE =
  MDF_CONSISTENT |
  MDF_PRIMARY_IND |
  MDF_CONNECTED_IND |
  MDF_WAS_UPTODATE |
  MDF_PEER_OUTDATED |
  MDF_CRASHED_PRIMARY |
  MDF_AL_CLEAN |
  MDF_FULL_SYNC

/** `stored`: what stands in the superblock. `keepsLog`: the activity log counts, as a Primary's does. */
export function superblockFlags(
  stored: number,
  { disk, role, conn, pdsk }: StateWord,
  more: { readonly keepsLog: boolean; readonly crashedPrimary: boolean; readonly fullSync: boolean },
): number {
  if (disk < D_INCONSISTENT) return stored & ~MDF_AL_CLEAN
  let flags = stored & ~DECIDED_HERE
  if (disk > D_INCONSISTENT) flags |= MDF_CONSISTENT
  if (role === R_PRIMARY || more.keepsLog) flags |= MDF_PRIMARY_IND
  if (conn >= C_CONNECTED) flags |= MDF_CONNECTED_IND
  if (disk >= D_CONSISTENT) flags |= MDF_WAS_UPTODATE
  if (pdsk === D_INCONSISTENT || pdsk === D_OUTDATED) flags |= MDF_PEER_OUTDATED
  if (more.crashedPrimary) flags |= MDF_CRASHED_PRIMARY
  if (more.fullSync) flags |= MDF_FULL_SYNC
  return flags
}
