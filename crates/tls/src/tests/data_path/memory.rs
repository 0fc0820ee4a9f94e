//! What connections hold while nothing moves.

use super::*;

#[tokio::test]
async fn an_idle_connection_holds_no_buffer() {
    let ca = Ca::new("root");
    let (server, client) = (ca.identity(REVIEWS), ca.identity(PRODUCTPAGE));
    let ((near, far), _, _) = meet(&terminator(&server), &originator(&client, only(REVIEWS))).await.unwrap();
    assert_eq!((near.held(), far.held()), (0, 0));
}

#[tokio::test]
async fn a_record_that_stalls_costs_about_what_came_of_it() {
    let ca = Ca::new("root");
    let (server, client) = (ca.identity(REVIEWS), ca.identity(PRODUCTPAGE));
    let ((mut near, mut far), mut wire, mut other) =
        meet_over_wire(&terminator(&server), &originator(&client, only(REVIEWS))).await;
    // With it go the tickets that it kept until now.
    far.write_all(b"!").await.unwrap();
    far.flush().await.unwrap();
    let sent: Vec<u8> = (0..40_000u32).map(|n| (n % 251) as u8).collect();
    near.write_all(&sent).await.unwrap();
    near.flush().await.unwrap();
    let mut sealed = vec![0; 1 << 16];
    // Three records.
    let length = wire.read(&mut sealed).await.unwrap();
    let (mut received, mut at) = (vec![0; 1 << 16], 0);
    for stop in [1, 4, 5, 6, 100, 101, 9_000, 16_000] {
        other.write_all(&sealed[at..stop]).await.unwrap();
        at = stop;
        goes_on_waiting(far.read(&mut received)).await;
        assert!((stop..=2 * stop.max(8)).contains(&far.held()), "{} of {stop}", far.held());
        assert_eq!(crate::buffers::lent(), 0);
    }
    // One record, and a byte less than the others.
    other.write_all(&sealed[at..length - 1]).await.unwrap();
    far.read_exact(&mut received[..32_768]).await.unwrap();
    goes_on_waiting(far.read(&mut [0; 10])).await;
    assert!(far.held() < 8_000, "{}", far.held());
    other.write_all(&sealed[length - 1..length]).await.unwrap();
    far.read_exact(&mut received[32_768..40_000]).await.unwrap();
    assert!(received[..40_000] == sent && far.held() == 0);
}

#[tokio::test]
async fn a_peer_that_does_not_read_costs_what_it_was_not_sent() {
    let ca = Ca::new("root");
    let (server, client) = (ca.identity(REVIEWS), ca.identity(PRODUCTPAGE));
    let (near, far) = tokio::io::duplex(4_000);
    let name = ServerName::try_from(NAME).unwrap();
    let (serve, reach) = (terminator(&server), originator(&client, only(REVIEWS)));
    let (reached, served) = tokio::join!(reach.connect(near, name, LIMIT), serve.accept(far, LIMIT));
    let (mut near, mut far) = (reached.unwrap().0, served.unwrap().0);
    let sent: Vec<u8> = (0..16_393u32).map(|n| (n % 251) as u8).collect();
    // As HTTP/2 writes a frame.
    let (head, frame) = sent.split_at(9);
    let mut received = vec![0; sent.len()];
    for _ in 0..3 {
        let taken = far.write_vectored(&[IoSlice::new(head), IoSlice::new(frame)]).await.unwrap();
        assert_eq!(taken, sent.len());
        assert!((12_000..17_000).contains(&far.held()), "{}", far.held());
        assert_eq!(crate::buffers::lent(), 0);
        goes_on_waiting(far.write_vectored(&[IoSlice::new(head)])).await;
        let (flushed, read) = tokio::join!(far.flush(), near.read_exact(&mut received));
        flushed.and(read.map(drop)).unwrap();
        assert!(received == sent && far.held() == 0);
    }
}
