# Read by every interactive bash, the terminals of a notebook among them.
case $- in
    *i*) ;;
    *) return ;;
esac
HISTCONTROL=ignoreboth
HISTSIZE=2000
shopt -s checkwinsize histappend
PS1='\u@\h:\w\$ '
alias ll='ls -l'
alias la='ls -A'
