// Asks every second how far an operation is, and shows what has changed, until it is over.
const parts = ["pgsnap-step", "pgsnap-amount"];

async function look() {
    try {
        const answer = await fetch(location.href, {headers: {"X-Pgsnap-Poll": "1"}});
        if (answer.status === 204 || answer.redirected) {
            location.reload();
            return;
        }
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        for (const id of parts) {
            const [here, there] = [document.getElementById(id), page.getElementById(id)];
            if (here && there && here.innerHTML !== there.innerHTML) {
                here.innerHTML = there.innerHTML;
            }
        }
    } catch {
        // The server may be starting anew.
    }
    setTimeout(look, 1000);
}

setTimeout(look, 1000);
