// What a handler command finds in its environment besides DRBD_RESOURCE (config-and-tools.md 1.8, column 8.4). Facts about
// volumes are blank-separated lists, as for handlers of a whole resource.

import type { LocalResource } from './settings.ts'

export function handlerEnvironment({ local, peer }: LocalResource, configFile: string): ReadonlyMap<string, string> {
  const list = (values: readonly (string | number)[]): string => values.join(' ')
  const { volumes } = local
  return new Map([
    ['DRBD_CONF', configFile],
    ['DRBD_VOLUME', list(volumes.map(({ number }) => number))],
    ['DRBD_MINOR', list(volumes.map(({ minor }) => minor))],
    ['DRBD_LL_DISK', list(volumes.map(({ disk }) => disk))],
    ['DRBD_PEER', peer.hostName],
    ['DRBD_PEERS', peer.hostName],
    ['DRBD_PEER_AF', peer.address.family],
    ['DRBD_PEER_ADDRESS', peer.address.host],
  ])
}
