/** A `fetch` for single-page apps: it sends the access token, and refreshes it once for all requests that need it. */
export function createSession({ origin = '', storage = localStorage, onLogout = () => {} } = {}) {
  let access = null // in memory only; after a reload the refresh token brings a new one
  let refreshing = null

  function keep(tokens) {
    access = tokens.access
    if (tokens.refresh) storage.setItem('refresh', tokens.refresh)
  }
  function end() {
    access = null
    storage.removeItem('refresh')
    onLogout()
  }
  function post(path, body) {
    const headers = { 'content-type': 'application/json' }
    return fetch(origin + path, { method: 'POST', headers, body: JSON.stringify(body) })
  }
  function send(path, init) {
    const headers = new Headers(init.headers)
    if (access) headers.set('authorization', `Bearer ${access}`)
    return fetch(origin + path, { ...init, headers })
  }
  async function refresh() {
    const token = storage.getItem('refresh')
    if (!token) return false
    const response = await post('/auth/refresh/', { refresh: token })
    if (!storage.getItem('refresh')) return false // logged out meanwhile
    if (response.ok) keep(await response.json())
    else if (response.status === 401 && storage.getItem('refresh') === token) end()
    return response.ok // a 503 ends nothing: the next request tries again
  }

  return {
    keep, // call it with what login, change_password and refresh return
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
      end()
      if (token) await post('/auth/logout/', { refresh: token })
    },
  }
}
