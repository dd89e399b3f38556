//! A plain client: sends one request, returns status, reason and body.

use proxmove::sim::SimulatedCluster;

/// One answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) reason: String,
    pub(crate) body: String,
}

/// Builds a client that trusts a simulated cluster.
pub(crate) fn client(cluster: &SimulatedCluster) -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certificate =
        reqwest::Certificate::from_pem(cluster.certificate_pem.as_bytes()).expect("a certificate");
    reqwest::Client::builder()
        .tls_certs_only([certificate])
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("a client")
}

/// Sends a request that is answered.
pub(crate) async fn send(
    client: &reqwest::Client,
    method: &str,
    url: &str,
    headers: &[(&str, String)],
    body: Option<(String, String)>,
) -> Answer {
    try_send(client, method, url, headers, body)
        .await
        .expect("an answer")
}

/// Sends a request; `None` when the connection broke.
pub(crate) async fn try_send(
    client: &reqwest::Client,
    method: &str,
    url: &str,
    headers: &[(&str, String)],
    body: Option<(String, String)>,
) -> Option<Answer> {
    let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
    let mut request = client.request(method, url);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    if let Some((kind, text)) = body {
        request = request.header("content-type", kind).body(text);
    }
    let response = request.send().await.ok()?;
    let status = response.status().as_u16();
    let reason = response
        .extensions()
        .get::<hyper::ext::ReasonPhrase>()
        .map(|reason| String::from_utf8_lossy(reason.as_bytes()).into_owned())
        .or_else(|| response.status().canonical_reason().map(str::to_owned))
        .unwrap_or_default();
    Some(Answer {
        status,
        reason,
        body: response.text().await.unwrap_or_default(),
    })
}
