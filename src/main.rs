//! Parse, run, print one error, exit.

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((first, rest)) = arguments.split_first()
        && first == "porter"
    {
        std::process::exit(proxmove::porter::run(rest));
    }
}
