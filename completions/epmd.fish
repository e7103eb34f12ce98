# Completion of epmd for fish, made of the table of options by tests/pages: change that, not this.

# The names that the epmd of this command line lists.
function __epmd_names
    set -l words (commandline -opc)
    set -l ask $words[1]
    if set -l at (contains -i -- -port $words)
        set -l port $words[(math $at + 1)]
        string match -qr '^[0-9]+$' -- "$port"; and set ask $ask -port $port
    end
    # Any user of this host may have given them.
    command $ask -names 2>/dev/null | string replace -rf '^name ([A-Za-z0-9_.-]+) at port [0-9]+$' '$1'
end

function __epmd_nodes
    for name in (__epmd_names)
        echo $name@(string replace -r '\..*' '' -- $hostname)
        string match -q '*.*' -- $hostname; and echo $name@$hostname
    end
end

complete -c epmd -f
complete -c epmd -o d -o debug -d 'Tell every request and how it ended'
complete -c epmd -o address -x -d 'Listen only on this comma- or space-separated list of IP addresses (and on the loopback interface)'
complete -c epmd -o port -x -d 'Listen on another port than 4369, or ask the epmd there'
complete -c epmd -o daemon -d 'Start epmd detached (as a daemon)'
complete -c epmd -o relaxed_command_check -d 'Allow this host to end epmd with -kill even if there are registered nodes, and to unregister a node with -stop'
complete -c epmd -o systemd -d 'Run as a service of systemd'
complete -c epmd -o takeover -d 'Take the place of the epmd that has the port, with its names and connections, so that no node notices'
complete -c epmd -n 'string match -q -- "-*" (commandline -ct)' -a '-takeover=force' -d 'Take the place of the epmd that has the port, with its names and connections, so that no node notices'
complete -c epmd -o config -r -F -d 'Read this file instead of /etc/epmd.toml'
complete -c epmd -o allow -x -d 'Let these comma-separated networks look names up. This host always may'
complete -c epmd -o no_sandbox -d 'Don\'t have the daemon shut itself in, for who must debug it'
complete -c epmd -o json -d 'With -doctor, -status or -refused'
complete -c epmd -o since -x -a 'today yesterday -1h' -d 'With -refused'
complete -c epmd -o socket -r -F -d 'With -status or -doctor'
complete -c epmd -o proto_dist -x -a 'inet_tcp inet6_tcp' -d 'With -doctor or -watch'
complete -c epmd -o mesh -d 'With -doctor'
complete -c epmd -o via -x -d 'With -mesh'
complete -c epmd -o check -d 'With -guard'
complete -c epmd -o print -d 'With -guard'
complete -c epmd -o packet_timeout -x -d 'How long a request may take to arrive before its connection is closed (default 5)'
complete -c epmd -o delay_accept -x -d 'Simulate a busy server'
complete -c epmd -o delay_write -x -d 'Simulate a busy server'
complete -c epmd -o names -d 'List the names registered with the running epmd'
complete -c epmd -o started -d 'Print nothing'
complete -c epmd -o dump -d 'List all names that the running epmd knows, those that are gone too'
complete -c epmd -o kill -d 'End the running epmd (only if no name is registered or it was started with -relaxed_command_check)'
complete -c epmd -o stop -x -a '(__epmd_names)' -d 'Unregister a name (only if epmd was started with -relaxed_command_check)'
complete -c epmd -o check_config -d 'Check command line, environment and file, and print what would be in force'
complete -c epmd -o doctor -d 'Find out why nodes don\'t see each other'
complete -c epmd -n '__fish_seen_argument -o doctor' -a '(__epmd_nodes)' -d 'Registered here'
complete -c epmd -o watch -d 'Examine the nodes of watch.nodes again and again, and say once when one can\'t be reached any more, and when it can again'
complete -c epmd -o status -d 'Print what the running epmd is doing'
complete -c epmd -o refused -d 'Print who was refused, from journald'
complete -c epmd -o guard -d 'Keep nftables\' rules for the nodes\' own ports in step with the running epmd'
complete -c epmd -o help -d 'Print this with more words'
complete -c epmd -o version -d 'Print the version'
