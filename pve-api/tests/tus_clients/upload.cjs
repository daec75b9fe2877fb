// Uploads a file with tus-js-client: upload.cjs ENDPOINT FILE METADATA-AS-JSON.
const fs = require('node:fs')
const tus = require('tus-js-client')

const [endpoint, path, metadata] = process.argv.slice(2)
const upload = new tus.Upload(fs.createReadStream(path), {
  endpoint,
  metadata: JSON.parse(metadata),
  retryDelays: Array(100).fill(200),
  onError: (error) => {
    console.error(error)
    process.exit(1)
  },
  onSuccess: () => console.log(upload.url),
})
upload.start()
