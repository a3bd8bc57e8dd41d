// DRBD 8.4's one connection word, taken apart into the two words of DRBD 9, which `status` has used ever since
// (config-and-tools.md 3.9): WFConnection reads Connecting, WFReportParams and above read Connected; replication is Off
// below Connected and Established at Connected.

const BELOW_HANDSHAKE: ReadonlySet<string> = new Set([
  'StandAlone',
  'Disconnecting',
  'Unconnected',
  'Timeout',
  'BrokenPipe',
  'NetworkFailure',
  'ProtocolError',
  'TearDown',
  'WFConnection',
])
const SYNCING: ReadonlySet<string> = new Set(['SyncSource', 'SyncTarget', 'PausedSyncS', 'PausedSyncT'])

/** The hosts talk to each other and agreed on how. */
export const isConnected = (state: string): boolean => !BELOW_HANDSHAKE.has(state) && state !== 'WFReportParams'

export function connectionWord(state: string): string {
  if (state === 'WFConnection') return 'Connecting'
  return BELOW_HANDSHAKE.has(state) ? state : 'Connected'
}

export function replicationWord(state: string): string {
  if (!isConnected(state)) return 'Off'
  return state === 'Connected' ? 'Established' : state
}

export const isSyncing = (state: string): boolean => SYNCING.has(state)
