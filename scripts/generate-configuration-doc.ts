// Writes docs/configuration.md from the schema of the configuration. Run it after a change of src/config/schema.ts:
// `npm run build && node dist/scripts/generate-configuration-doc.js`.

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { configurationDocument } from '../src/config/documentation.ts'
import { repositoryRoot } from '../test/support/root.ts'

writeFileSync(join(repositoryRoot, 'docs/configuration.md'), configurationDocument())
