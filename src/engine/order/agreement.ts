// The agreement on the order of writes, once per connection (docs/protocol.md, P_ORDER). A packet is sent only for an order
// that is not arbitration, so silence means arbitration: what a kernel and a host that knows no other order do.

import type { OrderSettings, ResourceSettings } from '../../runtime/api.ts'
import { COORDINATOR_NAMES, OF_WRITE_NOW_ACKS, ORDER_NAMES } from '../../wire/drbd/constants.ts'
import type { PacketOf } from '../../wire/drbd/packets.ts'

type OrderPacket = PacketOf<'P_ORDER'>

export const orderPacket = (order: OrderSettings): OrderPacket => ({
  type: 'P_ORDER',
  volume: 0,
  order: ORDER_NAMES.indexOf(order.name),
  orderFlags: order.writeNowAcks ? OF_WRITE_NOW_ACKS : 0,
  coordinator: COORDINATOR_NAMES.indexOf(order.coordinator),
  extentsMax: order.extentsMax,
  extentBytes: order.extentBytes,
})

/** What stands against the own setting with this peer; undefined: nothing. */
export function orderProblem(settings: ResourceSettings, coprimePeer: boolean): string | undefined {
  const { name } = settings.order
  if (name === 'arbitration') return undefined
  if (settings.protocol !== 'C')
    return `global-write-order ${name} needs protocol C, here it is ${settings.protocol}; set protocol C, or global-write-order arbitration`
  if (!coprimePeer)
    return `incompatible "global-write-order" settings: ${name} here, but the peer (a kernel, or another program) knows arbitration only; set global-write-order arbitration here`
  return undefined
}

/** Why the two hosts cannot work together; undefined: they can. `peer` undefined: it has sent no P_ORDER. */
export function orderMismatch(own: OrderSettings, peer: OrderPacket | undefined): string | undefined {
  const differ = (option: string, here: string | number, there: string | number): string =>
    `incompatible "${option}" settings: ${here} here, ${there} on the peer; make both configurations equal`
  const peerName = peer === undefined ? 'arbitration' : (ORDER_NAMES[peer.order] ?? `order ${peer.order}`)
  if (peerName !== own.name) {
    const why = peer === undefined ? ' (or a version that knows no other)' : ''
    return differ('global-write-order', own.name, `${peerName}${why}`)
  }
  if (peer === undefined) return undefined
  const writeNowAcks = (peer.orderFlags & OF_WRITE_NOW_ACKS) !== 0
  if (own.name !== 'lock-extents') {
    if (writeNowAcks !== own.writeNowAcks) return differ('write-now-acks', yesNo(own.writeNowAcks), yesNo(writeNowAcks))
    const named = mirrored(COORDINATOR_NAMES[peer.coordinator])
    if (named !== own.coordinator)
      return differ('coordinator', HOST_WORDS[own.coordinator], HOST_WORDS[named ?? 'none'])
  }
  if (own.name !== 'coordinator' && peer.extentBytes !== own.extentBytes)
    return differ('dl-extent-size', own.extentBytes, peer.extentBytes)
  return undefined
}

const yesNo = (value: boolean): string => (value ? 'yes' : 'no')

/** As this host says it. */
const HOST_WORDS = {
  flag: 'the winner of conflicts',
  local: 'this host',
  peer: 'the peer',
  none: 'something unknown',
}

function mirrored(peer: OrderSettings['coordinator'] | undefined): OrderSettings['coordinator'] | undefined {
  if (peer === 'local') return 'peer'
  return peer === 'peer' ? 'local' : peer
}
