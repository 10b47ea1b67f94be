<#
.SYNOPSIS
GRPO on GSM8K in a container, from Windows: checks Docker Desktop, WSL 2 and the GPU, then starts the run.

.DESCRIPTION
    .\docker\train.ps1 -Cpu                                        # no GPU: a tiny model from scratch
    .\docker\train.ps1                                             # on an NVIDIA GPU
    .\docker\train.ps1 seed=2                                      # everything but -Cpu goes to ./run train

Quote an argument that holds a comma, brackets or braces: 'rollout={max_head_offpolicyness: 1}'. Exit codes are those of
./run, and 3 when a check failed. docs/DOCKER_WINDOWS_SETUP.md tells how to install what is missing.

.PARAMETER Cpu
Use the service without a GPU.

.PARAMETER Arguments
Everything else, handed on as it is.
#>
[CmdletBinding(PositionalBinding = $false)]
param(
    [switch] $Cpu,
    [Parameter(ValueFromRemainingArguments = $true)] [string[]] $Arguments = @()
)

Set-StrictMode -Version Latest
$setupGuide = 'docs/DOCKER_WINDOWS_SETUP.md'

# Ends the script with one sentence that says what to do.
function Stop-WithAdvice([string] $Problem, [string] $Advice) {
    Write-Host "train.ps1: $Problem" -ForegroundColor Red
    Write-Host "$Advice ($setupGuide)"
    exit 3
}

# Whether a program is there and ends well; what it says is not shown. Windows PowerShell turns a program's standard error
# into errors, so these must not stop the script here.
function Test-Program([string] $Name, [string[]] $With) {
    if (-not (Get-Command $Name -ErrorAction SilentlyContinue)) { return $false }
    $ErrorActionPreference = 'Continue'
    & $Name @With 2>&1 | Out-Null
    return $LASTEXITCODE -eq 0
}

# The GPU reaches containers through WSL 2 only. $IsWindows does not exist in Windows PowerShell 5.1.
if (-not $Cpu -and ($PSVersionTable.PSVersion.Major -lt 6 -or $IsWindows) -and -not (Test-Program 'wsl.exe' @('--status'))) {
    Stop-WithAdvice 'WSL 2 is not installed.' 'Run "wsl --install" in a PowerShell started as administrator, then restart Windows.'
}
if (-not (Test-Program 'docker' @('--version'))) {
    Stop-WithAdvice 'there is no docker command.' 'Install Docker Desktop with the WSL 2 back end, then open a new PowerShell.'
}
if (-not (Test-Program 'docker' @('compose', 'version'))) {
    Stop-WithAdvice 'docker has no compose plugin.' 'Update Docker Desktop.'
}
if (-not (Test-Program 'docker' @('info'))) {
    Stop-WithAdvice 'Docker does not answer.' 'Start Docker Desktop and wait until it says "Engine running".'
}
if ((docker info --format '{{.OSType}}') -ne 'linux') {
    Stop-WithAdvice 'Docker runs Windows containers.' 'Choose "Switch to Linux containers" in the menu of Docker Desktop''s icon.'
}

$service = 'cpu'
if (-not $Cpu) {
    $service = 'gpu'
    if (-not (Test-Program 'nvidia-smi' @('-L'))) {
        Stop-WithAdvice 'nvidia-smi finds no NVIDIA GPU.' 'Install NVIDIA''s driver for Windows, or add -Cpu to run without a GPU.'
    }
    # The driver's own nvidia-smi, put into a small image by Docker: shows that containers see the card.
    if (-not (Test-Program 'docker' @('run', '--rm', '--gpus', 'all', 'ubuntu:24.04', 'nvidia-smi', '-L'))) {
        Stop-WithAdvice 'containers do not see the GPU.' 'In Docker Desktop choose the WSL 2 back end, run "wsl --update", and update the driver.'
    }
}

$composeFile = Join-Path $PSScriptRoot 'compose.yaml'
docker compose -f $composeFile run --rm $service train @Arguments
exit $LASTEXITCODE
