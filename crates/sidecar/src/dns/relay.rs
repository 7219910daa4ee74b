//! A zone on its way from upstream over TCP: many messages, and who asked knows which is the last.
//!
//! It decides when that is over: at the end that one side makes, or where nothing moves for [`IDLE`]. It deliberately reads none of
//! it, so that what is asked on the same connection later is upstream's too.

use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const IDLE: Duration = Duration::from_secs(30);
const BUFFER: usize = 16 << 10;

pub(super) async fn relay(client: &mut TcpStream, server: &mut TcpStream) -> io::Result<()> {
    let (mut asked, mut said) = (vec![0; BUFFER], vec![0; BUFFER]);
    let mut asks = true;
    loop {
        let moving = async {
            tokio::select! {
                length = client.read(&mut asked), if asks => match length? {
                    0 => {
                        asks = false;
                        server.shutdown().await?;
                        Ok(true)
                    }
                    length => server.write_all(&asked[..length]).await.map(|()| true),
                },
                length = server.read(&mut said) => match length? {
                    0 => io::Result::Ok(false),
                    length => client.write_all(&said[..length]).await.map(|()| true),
                },
            }
        };
        if !tokio::time::timeout(IDLE, moving).await?? {
            return Ok(());
        }
    }
}
