/** A `fetch` for single-page apps: it sends the access token, and refreshes it once for all requests that need it. */
export function createSession({ origin = '', cookie = false, storage = localStorage, onLogout = () => {} } = {}) {
  const credentials = cookie ? 'include' : 'same-origin'
  let access = null // in memory only; after a reload the refresh token brings a new one
  let refreshing = null

  function keep(tokens) {
    access = tokens.access
    // No script sees the cookie; what is stored says that there is one, and whether it was replaced since.
    if (cookie) storage.setItem('refresh', crypto.randomUUID())
    else if (tokens.refresh) storage.setItem('refresh', tokens.refresh)
  }
  function forget() {
    access = null
    storage.removeItem('refresh')
  }
  function post(path, body) {
    const headers = { 'content-type': 'application/json' }
    const send = () => fetch(origin + path, { method: 'POST', headers, credentials, body: JSON.stringify(body) })
    // One tab at a time, so that no late response puts an older cookie in the place of a newer one.
    return cookie && globalThis.navigator?.locks ? navigator.locks.request('session', send) : send()
  }
  function send(path, init) {
    const headers = new Headers(init.headers)
    if (access) headers.set('authorization', `Bearer ${access}`)
    return fetch(origin + path, { credentials, ...init, headers })
  }
  async function refresh() {
    const token = storage.getItem('refresh')
    if (!token) return false
    const response = await post('/auth/refresh/', cookie ? {} : { refresh: token })
    if (!storage.getItem('refresh')) return false // logged out meanwhile
    if (response.ok) keep(await response.json())
    else if (response.status === 401 && storage.getItem('refresh') === token) {
      forget()
      onLogout()
    }
    return response.ok // a 503 ends nothing: the next request tries again
  }

  return {
    keep, // call it with what change_password returns
    async login(body) {
      const response = await post('/api/login/', body)
      if (response.ok) keep(await response.clone().json())
      return response
    },
    async fetch(path, init = {}) {
      const used = access
      const response = await send(path, init)
      if (response.status !== 401) return response
      if (used === access) {
        refreshing ??= refresh().finally(() => {
          refreshing = null
        })
        if (!(await refreshing)) return response
      }
      return send(path, init) // once: a second 401 is the caller's
    },
    async logout() {
      const token = storage.getItem('refresh')
      forget()
      try {
        if (token) await post('/auth/logout/', cookie ? {} : { refresh: token })
      } finally {
        onLogout()
      }
    },
  }
}
