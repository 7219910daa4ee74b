//! `fusewire intercept`: the rules that bring a workload's traffic to its sidecar, in the network namespace it is run in.
//!
//! It decides which tool puts them in and what an error of that tool means; the rules themselves are `net`'s
//! ([`fusewire_net::redirect`]). It deliberately remembers nothing: what is in place is what the kernel says.

mod routes;
mod status;
mod tool;

use crate::output::Output;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use fusewire_model::yaml::parse_mark;
use fusewire_net::redirect::{
    ANSWERS, Cidr, Family, Inbound, Jumps, Owner, PortRange, Ports, Rules, Way, iptables_back, iptables_down,
    iptables_up, nft_down, nft_up,
};
use routes::Routes;
use std::process::ExitCode;
use tool::{Nft, Xtables};

/// Bring the traffic of this network namespace to its sidecar, without a word to the applications.
///
/// The sidecar's file says where it takes what is redirected, such as `intercept: {outbound: 127.0.0.1:15001, inbound:
/// 0.0.0.0:15006}`. What stays on loopback is left alone. Needs CAP_NET_ADMIN, and nft or iptables; in Kubernetes it is an
/// init container's work.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Print the rules and change nothing; for `up` no permission is needed.
    #[arg(long, global = true)]
    dry_run: bool,
    /// Which tool puts the rules in. `auto`: nft, else whichever iptables there is; `down` and `status` look at all.
    #[arg(long, global = true, value_enum, default_value_t)]
    backend: Backend,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Backend {
    #[default]
    Auto,
    Nft,
    /// Whichever of the two the system means by it.
    Iptables,
    IptablesNft,
    IptablesLegacy,
}

#[derive(Subcommand)]
enum Command {
    /// Put the rules in place, or in place of those that are there.
    Up(Box<Up>),
    /// Take them out, and nothing else.
    Down,
    /// Say what is in place. Exit code 0: the rules are, for both directions and every family; 1: none are; 3: in part.
    Status {
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

#[derive(Args)]
struct Up {
    /// The sidecar's own traffic, by the user it runs as; of --uid, --gid and --mark one is needed.
    #[arg(long, required_unless_present_any = ["gid", "mark"])]
    uid: Vec<u32>,
    /// The same by group.
    #[arg(long)]
    gid: Vec<u32>,
    /// The same by its sockets' mark (SO_MARK), such as 0x539. The sidecar's file says `intercept: {mark: 0x539}`.
    #[arg(long, value_parser = mark)]
    mark: Vec<u32>,
    /// The sidecar's `intercept.outbound` port.
    #[arg(long, default_value_t = 15001, value_parser = clap::value_parser!(u16).range(1..))]
    outbound_port: u16,
    /// The sidecar's `intercept.inbound` port.
    #[arg(long, default_value_t = 15006, value_parser = clap::value_parser!(u16).range(1..))]
    inbound_port: u16,
    /// The sidecar's `dns` port: questions for names go there, over UDP and TCP, and a routing rule gives virtual addresses a
    /// way, by `ip` of iproute2. Default: they are left alone.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    dns_port: Option<u16>,
    /// The application sees its callers' addresses: what comes in is handed to the sidecar as it is (TPROXY), and a routing rule
    /// brings the application's answers back. The sidecar's file says `intercept: {tproxy: true}`. Needs `ip` of iproute2.
    #[arg(long)]
    tproxy: bool,
    /// Only these ports are redirected when they are connected to from outside: 80,8000-8010. Default all.
    #[arg(long, value_delimiter = ',')]
    include_inbound_ports: Vec<PortRange>,
    /// These are not, whatever is included: the sidecar's own ports, for instance.
    #[arg(long, value_delimiter = ',')]
    exclude_inbound_ports: Vec<PortRange>,
    /// Only connections to these ports are redirected when they leave. Default all.
    #[arg(long, value_delimiter = ',')]
    include_outbound_ports: Vec<PortRange>,
    #[arg(long, value_delimiter = ',')]
    exclude_outbound_ports: Vec<PortRange>,
    /// Only connections to these networks are redirected when they leave: 10.0.0.0/8,fd00::/8. Default all.
    #[arg(long, value_delimiter = ',')]
    include_outbound_cidrs: Vec<Cidr>,
    #[arg(long, value_delimiter = ',')]
    exclude_outbound_cidrs: Vec<Cidr>,
}

fn mark(text: &str) -> Result<u32, String> {
    let mark = parse_mark(text).filter(|mark| *mark != ANSWERS);
    mark.ok_or_else(|| format!("must be a mark such as 0x539, and not {ANSWERS:#x}, got {text:?}"))
}

impl Up {
    fn rules(&self) -> Result<Rules> {
        if self.outbound_port == self.inbound_port {
            bail!("--outbound-port and --inbound-port are both {}: they are two listeners", self.inbound_port);
        }
        let users = self.uid.iter().map(|id| Owner::User(*id));
        let groups = self.gid.iter().map(|id| Owner::Group(*id));
        Ok(Rules {
            outbound_port: self.outbound_port,
            inbound_port: self.inbound_port,
            dns_port: self.dns_port,
            by: if self.tproxy { Inbound::Tproxy } else { Inbound::Redirect },
            sidecar: users.chain(groups).chain(self.mark.iter().map(|mark| Owner::Mark(*mark))).collect(),
            inbound: Ports { only: self.include_inbound_ports.clone(), except: self.exclude_inbound_ports.clone() },
            outbound: Ports { only: self.include_outbound_ports.clone(), except: self.exclude_outbound_ports.clone() },
            only_to: self.include_outbound_cidrs.clone(),
            except_to: self.exclude_outbound_cidrs.clone(),
        })
    }
}

/// What puts rules in.
enum Tools {
    Nft(Nft),
    Xtables(Xtables),
}

impl Backend {
    /// Those to look at. `auto`: every one that is installed.
    fn all(self) -> Vec<Tools> {
        let nft = || Nft::find().map(Tools::Nft);
        let xtables = |name| Xtables::find(name).map(Tools::Xtables);
        match self {
            Backend::Nft => nft().into_iter().collect(),
            Backend::Iptables => xtables("").into_iter().collect(),
            Backend::IptablesNft => xtables("-nft").into_iter().collect(),
            Backend::IptablesLegacy => xtables("-legacy").into_iter().collect(),
            Backend::Auto => {
                let variants: Vec<Tools> = ["-nft", "-legacy"].into_iter().filter_map(xtables).collect();
                let plain = if variants.is_empty() { xtables("") } else { None };
                nft().into_iter().chain(variants).chain(plain).collect()
            }
        }
    }

    /// The one to put rules in with.
    fn one(self) -> Option<Tools> {
        match self {
            Backend::Auto => Nft::find()
                .map(Tools::Nft)
                .or_else(|| Xtables::find("").map(Tools::Xtables))
                .or_else(|| self.all().pop()),
            _ => self.all().pop(),
        }
    }

    fn missing(self) -> String {
        let (what, remedy) = match self {
            Backend::Auto => {
                ("neither nft nor iptables is installed", "install nftables, or iptables where the kernel is old")
            }
            Backend::Nft => ("nft is not installed", "install nftables, or use --backend iptables"),
            Backend::Iptables => ("iptables-restore and iptables-save are not installed", "install iptables"),
            Backend::IptablesNft => {
                ("iptables-nft-restore is not installed", "install iptables 1.8, or use --backend iptables")
            }
            Backend::IptablesLegacy => {
                ("iptables-legacy-restore is not installed", "install iptables 1.8, or use --backend iptables")
            }
        };
        format!("{what} ({remedy})")
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let backend = arguments.backend;
    match &arguments.command {
        Command::Up(up) if arguments.dry_run => print!("{}", rehearsed(&up.rules()?, backend)),
        Command::Up(wanted) => {
            let rules = wanted.rules()?;
            tool::permitted()?;
            up(&rules, backend)?;
        }
        Command::Down if arguments.dry_run => {
            tool::permitted()?; // what is there is read from the kernel
            print!("{}", rehearsed_down(backend)?);
        }
        Command::Down => {
            tool::permitted()?;
            for (tools, down) in there(backend)? {
                down.iter().try_for_each(|text| tools.load(text))?;
            }
            Routes::find().map_or(Ok(()), |routes| routes.set(&[]))?;
        }
        Command::Status { output } => {
            tool::permitted()?;
            return status::run(backend, *output);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn up(rules: &Rules, backend: Backend) -> Result<()> {
    let tools = backend.one().with_context(|| backend.missing())?;
    let Some(routes) = Routes::wanted(rules)? else { return replace(&tools, rules) };
    let before = routes.ways()?;
    // before the rules: without them the application's answers go astray
    let done = routes.set(&rules.ways()).and_then(|()| replace(&tools, rules));
    done.map_err(|e| match routes.set(&before) {
        Ok(()) => e,
        Err(why) => e.context(format!("routing rules are left over (take them out: `down`), since {why}")),
    })
}

/// Puts the rules in place of what any tool has put there.
fn replace(tools: &Tools, rules: &Rules) -> Result<()> {
    // two sets of rules would redirect by whichever is asked first; and one tool may be another by name only
    let mut removed = false;
    for other in Backend::Auto.all().iter().filter(|other| other.name() != tools.name()) {
        // one that does not work here has put nothing here
        for text in other.there().unwrap_or_default() {
            other.load(&text)?;
            removed = true;
        }
    }
    let loaded = load(tools, rules);
    if removed {
        return loaded.context("what another tool had put in was taken out before: nothing is redirected now");
    }
    loaded
}

fn load(tools: &Tools, rules: &Rules) -> Result<()> {
    match tools {
        Tools::Nft(nft) => nft.load(&nft_up(rules))?,
        Tools::Xtables(xtables) => {
            let before = tool::families().into_iter().map(|family| Ok((family, xtables.saved(family)?)));
            let before = before.collect::<Result<Vec<_>>>()?;
            for (n, (family, saved)) in before.iter().enumerate() {
                let loaded = xtables.restore(*family, &iptables_up(rules, *family, &Jumps::of(saved)));
                if let Err(e) = loaded {
                    // one of a family's tables may be in place as well
                    return match before[..=n].iter().try_for_each(|(family, saved)| put_back(xtables, *family, saved)) {
                        Ok(()) => Err(e.context("the rules of both families are as they were")),
                        Err(why) => Err(e.context(format!("a part is in place (take it out: `down`), since {why}"))),
                    };
                }
            }
        }
    }
    eprintln!("redirection is in place, by {}", tools.name());
    Ok(())
}

/// As it was before.
fn put_back(xtables: &Xtables, family: Family, before: &str) -> Result<()> {
    let now = xtables.saved(family)?;
    if tool::ours(&now) == tool::ours(before) {
        return Ok(());
    }
    iptables_back(before, &Jumps::of(&now)).map_or(Ok(()), |text| xtables.restore(family, &text))
}

/// What takes out what is there, by each tool that works here; of a tool that was named, why it does not.
fn there(backend: Backend) -> Result<Vec<(Tools, Vec<Loaded>)>> {
    let mut all = Vec::new();
    for tools in backend.all() {
        match tools.there() {
            Ok(there) => all.push((tools, there)),
            Err(_) if backend == Backend::Auto => {}
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

/// What `up` would feed to the tool, where nothing of ours is there yet.
fn rehearsed(rules: &Rules, backend: Backend) -> String {
    let of = |way: Way| {
        let families = [Family::V4, Family::V6].into_iter().filter(move |family| way.is_of(*family));
        families.flat_map(move |family| [way.put_route(family), way.put_rule(family)])
    };
    let calls: Vec<String> = rules.ways().into_iter().flat_map(of).collect();
    Routes::written(&calls) + &rehearsed_rules(rules, backend)
}

fn rehearsed_rules(rules: &Rules, backend: Backend) -> String {
    let by_iptables = match backend {
        Backend::Auto => matches!(backend.one(), Some(Tools::Xtables(_))),
        Backend::Nft => false,
        Backend::Iptables | Backend::IptablesNft | Backend::IptablesLegacy => true,
    };
    if !by_iptables {
        return nft_up(rules);
    }
    let none = Jumps::default();
    let of = |family, tool| format!("# {tool} --noflush\n{}", iptables_up(rules, family, &none));
    of(Family::V4, "iptables-restore") + &of(Family::V6, "ip6tables-restore")
}

/// What `down` would feed, by what is there.
fn rehearsed_down(backend: Backend) -> Result<String> {
    let mut printed = String::new();
    for (tools, down) in there(backend)? {
        for (family, text) in &down {
            match &tools {
                Tools::Nft(_) => printed += text,
                Tools::Xtables(x) => printed += &format!("# {} --noflush\n{text}", x.program(*family, "restore")),
            }
        }
    }
    if let Some(routes) = Routes::find() {
        printed += &Routes::written(&routes.there(&Way::ALL)?);
    }
    Ok(printed)
}

/// What a tool is fed, and for which family where it has one of each.
type Loaded = (Family, String);

impl Tools {
    /// What takes out what is there of ours; empty: nothing is.
    fn there(&self) -> Result<Vec<Loaded>> {
        let mut all = Vec::new();
        match self {
            Tools::Nft(nft) => all.extend(nft.table()?.map(|_| (Family::V4, nft_down()))),
            Tools::Xtables(xtables) => {
                for family in tool::families() {
                    let down = iptables_down(&Jumps::of(&xtables.saved(family)?));
                    all.extend(down.map(|text| (family, text)));
                }
            }
        }
        Ok(all)
    }

    fn load(&self, (family, text): &Loaded) -> Result<()> {
        match self {
            Tools::Nft(nft) => nft.load(text),
            Tools::Xtables(xtables) => xtables.restore(*family, text),
        }
    }

    fn name(&self) -> String {
        match self {
            Tools::Nft(_) => "nft".into(),
            Tools::Xtables(xtables) => xtables.program(Family::V4, "restore"),
        }
    }
}
