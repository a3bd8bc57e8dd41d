// The option haggling of one session: options in, replies into the gather, and at the end what was agreed.
// Source: doc/proto.md, sections "Fixed newstyle negotiation", "Option types", "Metadata querying".

import { assert } from '../base/assert.ts'
import {
  NBD_CONTEXT_BASE_ALLOCATION,
  NBD_FLAG_CAN_MULTI_CONN,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_SEND_CACHE,
  NBD_FLAG_SEND_DF,
  NBD_FLAG_SEND_FAST_ZERO,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
  NBD_INFO_DESCRIPTION,
  NBD_INFO_NAME,
  NBD_OPT_ABORT,
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_GO,
  NBD_OPT_INFO,
  NBD_OPT_LIST,
  NBD_OPT_LIST_META_CONTEXT,
  NBD_OPT_SET_META_CONTEXT,
  NBD_OPT_STARTTLS,
  NBD_OPT_STRUCTURED_REPLY,
  NBD_REP_ACK,
  NBD_REP_ERR_INVALID,
  NBD_REP_ERR_POLICY,
  NBD_REP_ERR_SHUTDOWN,
  NBD_REP_ERR_TOO_BIG,
  NBD_REP_ERR_UNKNOWN,
  NBD_REP_ERR_UNSUP,
  NBD_REP_INFO,
  NBD_REP_META_CONTEXT,
  NBD_REP_SERVER,
} from '../wire/nbd/constants.ts'
import {
  decodeExportName,
  decodeInfoRequest,
  decodeMetaContextRequest,
  encodeExportNameReply,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeInfoText,
  encodeMetaContext,
  encodeOptionReply,
  encodeServerEntry,
  encodeText,
  type OptionFault,
} from '../wire/nbd/handshake.ts'
import type { NbdExport, NbdExportRefusal, NbdExports } from './exports.ts'
import type { Gather } from './gather.ts'

/** What client and server have agreed on when transmission begins. */
export interface Agreement {
  readonly export: NbdExport
  readonly structuredReplies: boolean
  /** base:allocation was selected for this export. */
  readonly allocationContext: boolean
}

/** What follows from an option: go on, transmission begins, or the session ends (with a reason if not by agreement). */
export type NegotiationStep = 'go on' | 'client left' | { readonly refuse: string } | Agreement

/** The id of the only context that we have. Clients echo nothing of it; any number does. */
export const BASE_ALLOCATION_ID = 1

const GO_ON = 'go on'

const REFUSALS = {
  unknown: NBD_REP_ERR_UNKNOWN,
  policy: NBD_REP_ERR_POLICY,
  shutdown: NBD_REP_ERR_SHUTDOWN,
} as const

export class Negotiation {
  readonly #exports: NbdExports
  readonly #gather: Gather
  /** The client wants no zeroes after the reply to EXPORT_NAME. */
  readonly #noZeroes: boolean
  #structuredReplies = false
  /** Name of the export for which base:allocation was selected last, as the client wrote it. */
  #contextExportName: string | undefined

  constructor(options: { exports: NbdExports; gather: Gather; noZeroes: boolean }) {
    this.#exports = options.exports
    this.#gather = options.gather
    this.#noZeroes = options.noZeroes
  }

  onOption(option: number, data: Uint8Array): NegotiationStep {
    switch (option) {
      case NBD_OPT_EXPORT_NAME:
        return this.#onExportName(data)
      case NBD_OPT_ABORT:
        this.#reply(option, NBD_REP_ACK)
        return 'client left'
      case NBD_OPT_LIST:
        return this.#onList(data)
      case NBD_OPT_STARTTLS:
        return this.#onStartTls(data)
      case NBD_OPT_INFO:
      case NBD_OPT_GO:
        return this.#onInfoOrGo(option, data)
      case NBD_OPT_STRUCTURED_REPLY:
        return this.#onStructuredReply(data)
      case NBD_OPT_LIST_META_CONTEXT:
        return this.#onListMetaContext(data)
      case NBD_OPT_SET_META_CONTEXT:
        return this.#onSetMetaContext(data)
      default:
        return this.#error(option, NBD_REP_ERR_UNSUP, `option ${option} is not known here`)
    }
  }

  /** The data of the option was longer than we look at, and is gone. */
  onOversizedOption(option: number, lengthBytes: number): NegotiationStep {
    switch (option) {
      case NBD_OPT_EXPORT_NAME: // has no error reply
        return { refuse: `an export name of ${lengthBytes} bytes` }
      case NBD_OPT_ABORT: // whatever comes with it is to be ignored
      case NBD_OPT_LIST:
      case NBD_OPT_STARTTLS:
      case NBD_OPT_STRUCTURED_REPLY:
        return this.onOption(option, new Uint8Array(1))
      case NBD_OPT_SET_META_CONTEXT:
        this.#contextExportName = undefined // replaced also when the option fails
        break
      case NBD_OPT_INFO:
      case NBD_OPT_GO:
      case NBD_OPT_LIST_META_CONTEXT:
        break
      default:
        return this.onOption(option, new Uint8Array(0))
    }
    return this.#error(option, NBD_REP_ERR_TOO_BIG, `option data of ${lengthBytes} bytes is too long`)
  }

  #onExportName(data: Uint8Array): NegotiationStep {
    const name = decodeExportName(data)
    if (typeof name !== 'string') return { refuse: name.text }
    const opened = this.#exports.open(name)
    if (isRefusal(opened)) return { refuse: opened.text }
    const agreement = this.#agree(name, opened)
    this.#gather.append(encodeExportNameReply(opened.sizeBytes, transmissionFlags(agreement), !this.#noZeroes))
    return agreement
  }

  #onList(data: Uint8Array): NegotiationStep {
    if (data.length > 0) return this.#error(NBD_OPT_LIST, NBD_REP_ERR_INVALID, 'LIST has no data')
    for (const entry of this.#exports.list()) {
      this.#reply(NBD_OPT_LIST, NBD_REP_SERVER, encodeServerEntry(entry.name, entry.description))
    }
    return this.#reply(NBD_OPT_LIST, NBD_REP_ACK)
  }

  /** NOTLS mode. A server with certificates would answer ACK here, forget what was negotiated, and start over in TLS. */
  #onStartTls(data: Uint8Array): NegotiationStep {
    if (data.length > 0) return this.#error(NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID, 'STARTTLS has no data')
    return this.#error(NBD_OPT_STARTTLS, NBD_REP_ERR_UNSUP, 'this server does not offer TLS')
  }

  #onStructuredReply(data: Uint8Array): NegotiationStep {
    const option = NBD_OPT_STRUCTURED_REPLY
    if (data.length > 0) return this.#error(option, NBD_REP_ERR_INVALID, 'STRUCTURED_REPLY has no data')
    this.#structuredReplies = true
    return this.#reply(option, NBD_REP_ACK)
  }

  #onInfoOrGo(option: number, data: Uint8Array): NegotiationStep {
    const request = decodeInfoRequest(data)
    if ('fault' in request) return this.#fault(option, request)
    const opened = this.#exports.open(request.name)
    if (isRefusal(opened)) return this.#error(option, REFUSALS[opened.refused], opened.text)
    const agreement = this.#agree(request.name, opened)
    this.#reply(option, NBD_REP_INFO, encodeInfoExport(opened.sizeBytes, transmissionFlags(agreement)))
    // Sent unasked too: a client that passes over it meets EINVAL at its first unaligned request, and this explains it.
    this.#reply(option, NBD_REP_INFO, encodeInfoBlockSize(opened.blockSize))
    if (request.types.includes(NBD_INFO_NAME)) {
      this.#reply(option, NBD_REP_INFO, encodeInfoText(NBD_INFO_NAME, opened.name))
    }
    if (request.types.includes(NBD_INFO_DESCRIPTION) && opened.description !== '') {
      this.#reply(option, NBD_REP_INFO, encodeInfoText(NBD_INFO_DESCRIPTION, opened.description))
    }
    this.#reply(option, NBD_REP_ACK)
    if (option === NBD_OPT_GO) return agreement
    opened.closed()
    return GO_ON
  }

  #onListMetaContext(data: Uint8Array): NegotiationStep {
    const option = NBD_OPT_LIST_META_CONTEXT
    const queries = this.#metaContextQueries(option, data)
    if (queries === undefined) return GO_ON
    const wanted = queries.list.length === 0 || queries.list.includes('base:')
    if (wanted || queries.list.includes(NBD_CONTEXT_BASE_ALLOCATION)) {
      this.#reply(option, NBD_REP_META_CONTEXT, encodeMetaContext({ id: 0, name: NBD_CONTEXT_BASE_ALLOCATION }))
    }
    return this.#reply(option, NBD_REP_ACK)
  }

  #onSetMetaContext(data: Uint8Array): NegotiationStep {
    const option = NBD_OPT_SET_META_CONTEXT
    this.#contextExportName = undefined // replaced also when the option fails
    const queries = this.#metaContextQueries(option, data)
    if (queries === undefined) return GO_ON
    if (queries.list.includes(NBD_CONTEXT_BASE_ALLOCATION)) {
      this.#contextExportName = queries.exportName
      const context = { id: BASE_ALLOCATION_ID, name: NBD_CONTEXT_BASE_ALLOCATION }
      this.#reply(option, NBD_REP_META_CONTEXT, encodeMetaContext(context))
    }
    return this.#reply(option, NBD_REP_ACK)
  }

  /** Checks both META_CONTEXT options; undefined if an error was sent. */
  #metaContextQueries(option: number, data: Uint8Array): { exportName: string; list: readonly string[] } | undefined {
    const request = decodeMetaContextRequest(data)
    if ('fault' in request) {
      this.#fault(option, request)
      return undefined
    }
    if (!this.#structuredReplies) {
      this.#error(option, NBD_REP_ERR_INVALID, 'metadata contexts need structured replies')
      return undefined
    }
    const opened = this.#exports.open(request.name)
    if (isRefusal(opened)) {
      this.#error(option, REFUSALS[opened.refused], opened.text)
      return undefined
    }
    opened.closed()
    const bad = request.queries.find((query) => query.indexOf(':') < 1)
    if (bad !== undefined) {
      this.#error(option, NBD_REP_ERR_INVALID, `query '${bad.slice(0, 64)}' has no namespace`)
      return undefined
    }
    return { exportName: request.name, list: request.queries }
  }

  #agree(requestedName: string, opened: NbdExport): Agreement {
    const { minimum, preferred, maximum } = opened.blockSize
    assert(minimum >= 512 && maximum % minimum === 0, `block size ${minimum}..${maximum}`)
    assert(preferred >= minimum && preferred <= maximum, `preferred block size ${preferred}`)
    assert(opened.sizeBytes % minimum === 0, `export of ${opened.sizeBytes} bytes, smallest block ${minimum}`)
    return {
      export: opened,
      structuredReplies: this.#structuredReplies,
      // A context selected for one export does not hold for another.
      allocationContext: this.#structuredReplies && this.#contextExportName === requestedName,
    }
  }

  #fault(option: number, fault: OptionFault): NegotiationStep {
    return this.#error(option, fault.fault, fault.text)
  }

  #error(option: number, type: number, text: string): NegotiationStep {
    return this.#reply(option, type, encodeText(text))
  }

  #reply(option: number, type: number, data?: Uint8Array): NegotiationStep {
    this.#gather.append(encodeOptionReply(option, type, data))
    return GO_ON
  }
}

const isRefusal = (opened: NbdExport | NbdExportRefusal): opened is NbdExportRefusal => 'refused' in opened

export function transmissionFlags(agreement: Agreement): number {
  let flags =
    NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_CAN_MULTI_CONN | NBD_FLAG_SEND_CACHE
  if (agreement.structuredReplies) flags |= NBD_FLAG_SEND_DF
  if (agreement.export.readOnly) return flags | NBD_FLAG_READ_ONLY
  return flags | NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO
}
