//! Asks an epmd by way of `erl_dist` or `edp_client`: `clients LIBRARY ADDRESS NAME [register]`.

use std::error::Error;

use edp_client::epmd_client::{EpmdClient, NodeType};
use erl_dist::epmd;
use tokio::net::TcpStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

/// The port that it registers.
const PORT: u16 = 4711;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [library, address, name, register] = &words[..] else {
        panic!("clients LIBRARY ADDRESS NAME REGISTER");
    };
    let register = register == "register";
    let asked = match library.as_str() {
        "erl_dist" => erl_dist(address, name, register).await,
        _ => edp_client(address, name, register).await,
    };
    if let Err(error) = asked {
        println!("{error}");
    }
}

async fn connect(address: &str) -> Result<epmd::EpmdClient<Compat<TcpStream>>, Box<dyn Error>> {
    let stream = TcpStream::connect((address, epmd::DEFAULT_EPMD_PORT)).await?;
    Ok(epmd::EpmdClient::new(stream.compat()))
}

/// Each request as far as it goes: a refusal of one says nothing of the next.
async fn erl_dist(address: &str, name: &str, register: bool) -> Result<(), Box<dyn Error>> {
    match connect(address).await?.get_names().await {
        Ok(names) => names
            .iter()
            .for_each(|(name, port)| println!("names {name} {port}")),
        Err(error) => println!("{error}"),
    }
    match connect(address).await?.get_node(name).await {
        Ok(Some(node)) => println!("lookup {} {}", node.name, node.port),
        Ok(None) => println!("none"),
        Err(error) => println!("{error}"),
    }
    if register {
        let node = epmd::NodeEntry::new("rust", PORT);
        let (_held, _creation) = connect(address).await?.register(node).await?;
        println!("registered");
    }
    Ok(())
}

async fn edp_client(address: &str, name: &str, register: bool) -> Result<(), Box<dyn Error>> {
    let client = EpmdClient::new(address);
    match client.list_nodes().await {
        Ok(lines) => {
            for line in lines.lines() {
                println!(
                    "{}",
                    line.replace("name ", "names ").replace(" at port", "")
                );
            }
        }
        Err(error) => println!("{error}"),
    }
    match client.lookup_node(name).await {
        Ok(node) => println!("lookup {} {}", node.node_name, node.port),
        Err(error) => println!("{error}"),
    }
    if register {
        client
            .register_node(PORT, "rust", NodeType::Normal, 6, 5, b"")
            .await?;
        println!("registered");
    }
    Ok(())
}
